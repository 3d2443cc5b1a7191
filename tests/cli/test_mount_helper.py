"""The command line of `mount.ocifs`, and its links in a directory of mount helpers."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from ocifs.cli.mount_helper import Call, mount_arguments, parse
from ocifs.cli.verbs import run


def call(options: str = "", *, verbose: bool = False, fake: bool = False, sloppy: bool = False) -> Call:
    return Call("image", "/mnt", options, verbose=verbose, fake=fake, sloppy=sloppy)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("image /mnt", call()),
        ("image /mnt -o rw", call("rw")),
        ("image /mnt -n -v -o ro,noexec -o nofail", call("ro,noexec,nofail", verbose=True)),
        ("-sf image /mnt -t fuse.ocifs -orw", call("rw", fake=True, sloppy=True)),
    ],
)
def test_takes_the_arguments_of_mount(line: str, expected: Call) -> None:
    assert parse(line.split()) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("image", "1 arguments instead of an image and a directory"),
        ("image /mnt -x", "option -x not recognized"),
        ("image /mnt -N 7", "option -N not recognized"),
        ("image /mnt -o", "option -o requires argument"),
    ],
)
def test_refuses_other_arguments(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(line.split())


def test_an_image_that_looks_like_an_option_is_none() -> None:
    assert mount_arguments(call("ro", verbose=True)._replace(image="-image")) == [
        *("mount", "--keep", "--verbose", "--options=ro", "--", "-image", "/mnt")
    ]


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["-f", "-o", "ro,noexec"], 0, ""),
        (["-f", "-o", "subvol=@"], 1, "ocifs: unknown mount option 'subvol': see `ocifs help mount`\n"),
        (["-sf", "-o", 'subvol=@,log="/a,b"'], 0, ""),
        (["-o", "ro"], 32, "ocifs: no such file or directory: '/missing'; an image in a registry is written "),
        (["-f", "-x"], 1, "mount.ocifs: option -x not recognized\nUsage: mount.ocifs IMAGE DIRECTORY [-sfnv] [-o O"),
    ],
)
def test_exits_as_mount_does(options: list[str], status: int, message: str, tmp_path: Path, fuse: None) -> None:
    command = [sys.executable, "-m", "ocifs.cli.mount_helper", "/missing", str(tmp_path), *options]
    variables = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr[: len(message)]) == (status, "", message)


def setup(directory: Path, *options: str) -> int:
    return run(["setup-mount", "--dir", str(directory), *options], None)


def installed() -> Path:
    helper = Path(sysconfig.get_path("scripts"), "mount.ocifs")
    if not helper.exists():
        pytest.skip(f"{helper} is missing: ocifs is not installed there")
    return helper


def test_setup_links_the_helpers_and_removes_its_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    helper = installed()
    for _ in range(2):  # again, after another version was installed
        assert setup(tmp_path) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == [f"{tmp_path}/mount.ocifs -> {helper}", f"{tmp_path}/mount.fuse.ocifs -> {helper}"]
        assert {name: os.readlink(tmp_path / name) for name in os.listdir(tmp_path)} == {
            "mount.ocifs": str(helper),
            "mount.fuse.ocifs": str(helper),
        }
    assert setup(tmp_path, "--remove") == 0
    assert capsys.readouterr().out == f"removed {tmp_path}/mount.ocifs\nremoved {tmp_path}/mount.fuse.ocifs\n"
    assert setup(tmp_path, "--remove") == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("remove", [[], ["--remove"]])
def test_setup_leaves_what_it_has_not_made(
    remove: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mount.fuse.ocifs").write_text("of a package")
    assert setup(tmp_path, *remove) == 1
    message = f"ocifs: {tmp_path}/mount.fuse.ocifs exists, and is not a link to mount.ocifs: remove it first\n"
    assert capsys.readouterr().err == message
    assert os.listdir(tmp_path) == ["mount.fuse.ocifs"]


def test_root_is_not_made_to_run_the_programs_of_another_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, root: None
) -> None:
    helper = tmp_path / "bin/mount.ocifs"
    helper.parent.mkdir()
    helper.touch()
    os.chown(helper, 1000, 1000)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(helper.parent))
    links = tmp_path / "sbin"
    links.mkdir()
    assert setup(links) == 1
    assert f"{helper} belongs to uid 1000 or is writable by all" in capsys.readouterr().err
    assert os.listdir(links) == []
