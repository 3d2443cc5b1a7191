"""`ocifs cache`, where it is, how large it may be, and doing without it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_layout
from tests.tars import file, tar


def entries(ocifs: Ocifs, *options: str) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = json.loads(ocifs.output("cache", "ls", "--json", *options))
    return listed


def test_an_index_is_made_once_and_listed(ocifs: Ocifs, demo: Path) -> None:
    assert entries(ocifs) == []
    ocifs.output("ls", demo)
    listed = entries(ocifs)
    assert sorted(str(entry["kind"]) for entry in listed) == ["layer2", "layer2", "tree4"]
    assert all(str(entry["subject"]).startswith("sha256:") for entry in listed)
    ocifs.output("cat", demo, "file")
    assert {entry["subject"] for entry in entries(ocifs)} == {entry["subject"] for entry in listed}
    assert ocifs.output("cache", "ls").splitlines()[-1].startswith("3 entries, ")
    assert all(entry["images"] == [str(demo)] for entry in entries(ocifs))
    assert all(line.endswith(f"  {demo}") for line in ocifs.output("cache", "ls").splitlines()[:-1])
    ocifs.output("cache", "clear")
    assert list((ocifs.cache / "images").iterdir()) == []


def test_clear_removes_all(ocifs: Ocifs, demo: Path) -> None:
    ocifs.output("ls", demo)
    assert ocifs.output("cache", "clear").startswith("freed ")
    assert entries(ocifs) == []
    assert list((ocifs.cache / "entries").iterdir()) == []


_ENTRY = f"layer2-sha256-{0:064x}"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.with_name("notes.txt").touch(), id="a name that is none of an entry"),
        pytest.param(lambda path: path.with_name("chapter1-final.tmp").touch(), id="a temporary file of others"),
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), id="a symlink"),
        pytest.param(Path.mkdir, id="a directory"),
        pytest.param(lambda path: (path.touch(), path.with_name("second").hardlink_to(path)), id="a hard link"),
    ],
)
def test_clear_leaves_what_ocifs_has_not_made(ocifs: Ocifs, demo: Path, make: Callable[[Path], object]) -> None:
    ocifs.output("ls", demo)
    made = {path.name for path in (ocifs.cache / "entries").iterdir()}
    make(ocifs.cache / "entries" / _ENTRY)
    ocifs.output("cache", "clear")
    left = {path.name for path in (ocifs.cache / "entries").iterdir()}
    assert left
    assert not left & made
    assert entries(ocifs) == []


@pytest.mark.parametrize("verb", [["ls"], ["clear"], ["prune", "--max-size", "0"]])
def test_a_directory_that_is_no_cache_is_refused(ocifs: Ocifs, tmp_path: Path, verb: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    complaint = ocifs.complaint(8, "cache", *verb, "--cache-dir", tmp_path / "mine")
    assert (
        complaint
        == f"{tmp_path}/mine is not an ocifs cache: it has no directory 'entries': name another with --cache-dir"
    )
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_cache_that_is_not_used_yet_is_empty(ocifs: Ocifs, tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "new").mkdir()
    assert ocifs.output("cache", "clear", "--cache-dir", tmp_path / "new") == "freed 0 B\n"
    assert entries(ocifs, "--cache-dir", str(tmp_path / "new")) == []
    assert (tmp_path / "new").exists() is exists


def test_a_directory_above_the_cache_that_others_may_write_is_named(ocifs: Ocifs, demo: Path, tmp_path: Path) -> None:
    """As a home directory with mode 0775, which sshd would refuse, too."""
    shared = tmp_path / "shared"
    (shared / "cache").mkdir(parents=True)
    shared.chmod(0o775)
    result = ocifs.run("cat", "--cache-dir", shared / "cache", demo, "file")
    way_out = f"{shared} can be written by its group (mode 0775): `chmod g-w {shared}`"
    assert result == (
        0,
        b"content",
        f"ocifs: warning: cache directory {shared}/cache: {way_out}: continuing without it\n",
    )
    refused = ocifs.complaint(8, "cache", "clear", "--cache-dir", shared / "cache")
    assert refused == f"cache directory {shared}/cache: {way_out}: name another with --cache-dir"


def test_prune_keeps_what_was_used_last(ocifs: Ocifs, demo: Path) -> None:
    ocifs.output("ls", demo)
    ocifs.output("cache", "prune", "--max-size", "1GiB")
    listed = entries(ocifs)
    assert len(listed) == 3
    ocifs.output("cache", "prune", "--max-size", str(listed[-1]["size"]))
    assert [entry["subject"] for entry in entries(ocifs)] == [listed[-1]["subject"]]


@pytest.mark.parametrize("how", ["option", "variable"])
def test_max_cache_size_bounds_what_is_kept(ocifs: Ocifs, demo: Path, how: str) -> None:
    options, variables = (["--max-cache-size", "1k"], {}) if how == "option" else ([], {"OCIFS_MAX_CACHE_SIZE": "1k"})
    assert ocifs.output("cat", *options, demo, "file", **variables) == "content"
    assert len(entries(ocifs)) == 1  # the last one made stays, whatever its size


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_cache_is_where_it_is_told_to_be(ocifs: Ocifs, demo: Path, how: str) -> None:
    other = ocifs.home / "other"
    options, variables = (["--cache-dir", str(other)], {}) if how == "option" else ([], {"OCIFS_CACHE_DIR": str(other)})
    ocifs.output("ls", *options, demo, **variables)
    assert len(list((other / "entries").iterdir())) == 3
    assert not ocifs.cache.exists()
    assert len(entries(ocifs, "--cache-dir", str(other))) == 3
    assert other.stat().st_mode & 0o777 == 0o700


def test_a_cache_that_cannot_be_made_is_one_warning(ocifs: Ocifs, demo: Path) -> None:
    (ocifs.home / "file").touch()
    result = ocifs.run("cat", "--cache-dir", ocifs.home / "file/cache", demo, "file")
    assert (result.code, result.out) == (0, b"content")
    assert result.err == (
        f"ocifs: warning: cache directory {ocifs.home}/file/cache: Not a directory: continuing without it\n"
    )


def test_a_cache_that_others_may_write_is_not_trusted(ocifs: Ocifs, demo: Path) -> None:
    ocifs.cache.mkdir(parents=True)
    ocifs.cache.chmod(0o777)
    result = ocifs.run("cat", demo, "file")
    assert (result.code, result.out) == (0, b"content")
    assert "can be written by others" in result.err
    assert result.err.count("\n") == 1


def test_a_full_disk_is_one_warning(ocifs: Ocifs, tmp_path: Path, root: None) -> None:
    names = [file(b"%064d" % (number * 7919**9), b"x") for number in range(5000)]
    image = write_layout(tmp_path / "image", Image(layers=(Layer(tar(names)),)))
    ocifs.cache.mkdir(parents=True, mode=0o700)
    full = f'mount -t tmpfs -o size=16k,mode=0700 tmpfs {ocifs.cache} && exec "$@"'
    tight = replace(ocifs, become=("unshare", "--mount", "sh", "-c", full, "sh"))
    result = tight.run("cat", image, f"/{0:064d}")
    assert (result.code, result.out) == (0, b"x")
    assert result.err.startswith("ocifs: warning: cannot write to the cache: No space left on device")
    assert result.err.count("\n") == 1
