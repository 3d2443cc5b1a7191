"""The notations of mounts in podman-run(1), and everything that is none of them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ocifs.bundle.requested_mounts import (
    RequestedMount,
    parse_mount,
    parse_tmpfs,
    parse_volume,
    refuse_duplicates,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a directory `d` and files `f` and `a,b:c`."""
    (tmp_path / "d").mkdir()
    (tmp_path / "f").touch()
    (tmp_path / "a,b:c").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bind(destination: str, source: Path, *options: str, is_file: bool = False, relabel: bool = False) -> RequestedMount:
    return RequestedMount(
        kind="bind", destination=destination, source=str(source), options=options, is_file=is_file, relabel=relabel
    )


def without_inherited(mount: RequestedMount) -> RequestedMount:
    """Leave out what the file system of the source has: that depends on the machine."""
    inherited = {"nosuid", "nodev", "noexec"}
    options = tuple(each for each in mount.options if each not in inherited)
    return RequestedMount(**{f: getattr(mount, f) for f in mount.__struct_fields__} | {"options": options})


@pytest.mark.parametrize(
    ("text", "source", "destination", "options", "is_file", "relabel"),
    [
        ("./d:/x", "d", "/x", ("rbind", "rprivate"), False, False),
        ("./d/../d/:/x//y/./", "d", "/x/y", ("rbind", "rprivate"), False, False),
        ("./f:/x:ro", "f", "/x", ("rbind", "rprivate", "ro"), True, False),
        ("./d:/x:ro,z", "d", "/x", ("rbind", "rprivate", "ro"), False, True),
        ("./d:/x:bind,rshared,cached", "d", "/x", ("bind", "rshared"), False, False),
        (".:/x:exec", "", "/x", ("rbind", "rprivate", "exec"), False, False),
    ],
)
def test_volumes(
    here: Path, text: str, source: str, destination: str, options: tuple[str, ...], is_file: bool, relabel: bool
) -> None:
    expected = bind(destination, here / source, *options, is_file=is_file, relabel=relabel)
    assert without_inherited(parse_volume(text)) == expected


def test_a_volume_may_be_absolute(here: Path) -> None:
    assert parse_volume(f"{here}/d:/x").source == f"{here}/d"


def test_a_volume_keeps_the_flags_of_its_file_system(tmp_path: Path, root: None) -> None:
    """As podman does: a user namespace may not take them away."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,noexec", "tmpfs", tmp_path], check=True)
    try:
        assert parse_volume(f"{tmp_path}:/x").options == ("rbind", "rprivate", "nosuid", "noexec")
        assert parse_volume(f"{tmp_path}:/x:exec").options == ("rbind", "rprivate", "exec", "nosuid")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type=bind,source=./d,target=/x,readonly", parse_volume),
        ("type=bind,src=./d,dst=/x,ro=true,bind-propagation=rslave", parse_volume),
        ("ro,destination=/x,type=bind,source=./d,bind-nonrecursive=true,relabel=shared", parse_volume),
    ],
)
def test_binds_by_their_fields(here: Path, text: str, expected: Callable[[str], RequestedMount]) -> None:
    flags = [each for each in ("rslave", "bind-nonrecursive", "relabel") if each in text]
    short = {"rslave": "rslave", "bind-nonrecursive": "bind", "relabel": "z"}
    wanted = expected(":".join(["./d", "/x", ",".join(["ro", *(short[each] for each in flags)])]))
    found = parse_mount(text)
    assert (set(found.options), found.relabel) == (set(wanted.options), wanted.relabel)
    assert (found.source, found.destination) == (wanted.source, wanted.destination)


def test_a_field_with_a_comma_is_quoted(here: Path) -> None:
    found = parse_mount('type=bind,"source=./a,b:c",target=/x')
    assert (found.source, found.is_file) == (str(here / "a,b:c"), True)


def test_a_tmpfs_is_open_to_all_users() -> None:
    options = ("nosuid", "nodev", "mode=1777")
    assert parse_tmpfs("/x") == RequestedMount(kind="tmpfs", destination="/x", options=options)
    chosen = ("nosuid", "nodev", "ro", "exec", "size=64m", "mode=700")
    assert parse_tmpfs("/x:size=64m,mode=700,ro,exec").options == chosen
    assert parse_mount("type=tmpfs,target=/x,tmpfs-size=50%,tmpfs-mode=0700,ro").options == (
        "nosuid",
        "nodev",
        "ro",
        "size=50%",
        "mode=0700",
    )


def test_an_image_is_read_only() -> None:
    found = parse_mount("type=image,source=./image:tag,target=/x,ro")
    assert (found.kind, found.source, found.destination) == ("image", "./image:tag", "/x")
    assert {"ro", "nosuid", "nodev"} <= set(found.options)


@pytest.mark.parametrize(
    ("parse", "text", "complaint"),
    [
        (parse_volume, "data:/x", "named volume"),
        (parse_volume, "d:/x", "write ./d"),
        (parse_volume, "/x", "names no source"),
        (parse_volume, "", "names no source"),
        (parse_volume, ":/x", "source is missing"),
        (parse_volume, "./none:/x", "No such file"),
        (parse_volume, "./f/x:/x", "Not a directory"),
        (parse_volume, "./d:/x:ro:z", "two colons"),
        (parse_volume, "./d:x", "absolute path"),
        (parse_volume, "./d:", "absolute path"),
        (parse_volume, "./d:/x/../y", "without '..'"),
        (parse_volume, "./d://", "whole image"),
        (parse_volume, "./d:/x:ro,rw", "exclude each other"),
        (parse_volume, "./d:/x:private,shared", "exclude each other"),
        (parse_volume, "./d:/x:U", "'U' is not supported"),
        (parse_volume, "./d:/\udcff", "not UTF-8"),
        (parse_mount, "", "keeps no volumes"),
        (parse_mount, "source=d,target=/x", "keeps no volumes"),
        (parse_mount, "type=devpts,target=/x", "'devpts' is not supported"),
        (parse_mount, "type=bind,source=./d", "no target"),
        (parse_mount, "type=bind,target=/x", "source is missing"),
        (parse_mount, "type=bind,source=,target=/x", "source has no value"),
        (parse_mount, "type=bind,source=./d,src=./d,target=/x", "twice"),
        (parse_mount, "type=bind,source=./d,target=/x,ro=maybe", "ro=maybe"),
        (parse_mount, "type=bind,source=./d,target=/x,frob", "'frob' is not supported"),
        (parse_mount, 'type=bind,"source=./d', "not a list of fields"),
        (parse_mount, "type=tmpfs,source=./d,target=/x", "no source"),
        (parse_mount, "type=tmpfs,target=/x,tmpfs-size=lots", "'lots'"),
        (parse_mount, "type=image,target=/x", "name an image"),
        (parse_mount, "type=image,source=i,target=/x,rw=true", "read-only"),
        (parse_tmpfs, "x", "absolute path"),
        (parse_tmpfs, "/x:size=1x", "'1x'"),
        (parse_tmpfs, "/x:mode=888", "'888'"),
        (parse_tmpfs, "/x:huge=always", "'huge=always'"),
        (parse_tmpfs, "/x:rbind", "'rbind' is not supported"),
    ],
)
def test_what_is_none(here: Path, parse: Callable[[str], RequestedMount], text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as raised:
        parse(text)
    assert str(raised.value).isprintable()


def test_two_mounts_on_one_destination() -> None:
    refuse_duplicates([parse_tmpfs("/x"), parse_tmpfs("/x/y")])
    with pytest.raises(ValueError, match="/x is the destination of two mounts"):
        refuse_duplicates([parse_tmpfs("/x"), parse_tmpfs("/x/")])
