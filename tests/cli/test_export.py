"""`ocifs export`, as a user runs it: whole or not at all, and in one line what is wrong."""

import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.cli.test_terminal import on_a_terminal
from tests.images import Image, Layer, write_layout
from tests.mounted.posix_image import image
from tests.tars import directory, file, tar

_FORMS = ["--to-dir", "--to-tar", "--to-erofs"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that takes a moment to write, and more than a small disk."""
    members = [directory(b"d/", mode=0o555)]
    members += [file(b"d/%04d" % number, random.Random(number).randbytes(50_000)) for number in range(400)]
    return write_layout(tmp_path_factory.mktemp("large") / "image", Image(layers=(Layer(tar(members), "tar"),)))


def test_each_form(ocifs: Ocifs, demo: Path, tmp_path: Path) -> None:
    for form in _FORMS:
        assert ocifs.output("export", demo, form, tmp_path / form) == ""
    assert (tmp_path / "--to-dir/etc/release").read_bytes() == b"name=demo\n"
    with tarfile.open(tmp_path / "--to-tar") as archive:
        assert archive.getmember("etc/release").linkname == "etc/again"
    assert (tmp_path / "--to-erofs").read_bytes()[1024:1028] == bytes.fromhex("e2e1f5e0")
    assert sorted(os.listdir(tmp_path)) == [*sorted(_FORMS), "demo", "home"]


def test_below_a_path(ocifs: Ocifs, demo: Path, tmp_path: Path) -> None:
    ocifs.output("export", demo, "/etc", "--to-dir", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [".hidden", "absolute", "again", "link", "release"]


def test_a_tar_to_standard_output(ocifs: Ocifs, demo: Path, tmp_path: Path) -> None:
    result = ocifs.run("export", demo, "/etc", "--to-tar", "-", "--prefix", "top/")
    assert (result.code, result.err) == (0, "")
    with tarfile.open(fileobj=io.BytesIO(result.out)) as archive:
        assert archive.getnames()[:2] == ["top", "top/.hidden"]
    ocifs.output("export", demo, "/etc", "--to-tar", tmp_path / "out", "--prefix", "top/")
    assert (tmp_path / "out").read_bytes() == result.out


def test_a_closed_pipe_ends_the_tar(ocifs: Ocifs, large: Path) -> None:
    process = ocifs.start("export", large, "--to-tar", "-")
    assert process.stdout
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr
    assert (process.wait(20), process.stderr.read()) == (0, b"")
    process.stderr.close()


def test_files_are_made_as_the_umask_has_it(ocifs: Ocifs, demo: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        ocifs.output("export", demo, "--to-tar", tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--to-dir", "a", "--to-tar", "b"],
        ["--to-tar", "a", "--rootless"],
        ["--to-dir", "a", "--prefix", "p"],
        ["--to-erofs", "a", "--prefix", "p"],
    ],
)
def test_wrong_usage(ocifs: Ocifs, demo: Path, options: list[str]) -> None:
    result = ocifs.run("export", demo, *options)
    assert (result.code, result.out) == (2, b"")
    assert result.err.startswith("ocifs: ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--to-dir", "full"], "full is not empty: name a new or empty directory"),
        (["--to-dir", "file"], "file exists and is not a directory: name a new or empty one"),
        (["--to-dir", "."], ". is the current directory: name a new directory in it"),
        (["--to-dir", "/proc"], "/proc is a mountpoint: name a new directory in it"),
        (["--to-dir", "none/out"], "/none: No such file or directory"),
        (["--to-dir", "file/out"], "file/out: Not a directory"),
        (["--to-dir", ""], "the target has an empty name"),
        (["--to-tar", "file"], "file exists: name a new file"),
        (["--to-tar", "full"], "full exists: name a new file"),
        (["--to-tar", "/dev/null"], "/dev/null exists: name a new file"),
        (["--to-erofs", "file"], "file exists: name a new file"),
        (["--to-erofs", "none/out"], "/none: No such file or directory"),
        (["--to-tar", "out", "--prefix", "../up"], "prefix ../up: name a relative path without '..'"),
        (["--to-tar", "\x1b[31m/out"], "\\x1b[31m: No such file or directory"),
    ],
)
def test_a_target_in_the_way(ocifs: Ocifs, demo: Path, options: list[str], says: str) -> None:
    (ocifs.home / "full").mkdir()
    (ocifs.home / "full/kept").touch()
    (ocifs.home / "file").write_bytes(b"kept")
    before = sorted(path for path in ocifs.home.rglob("*") if "cache" not in path.parts)
    assert ocifs.complaint(1, "export", demo, *options).endswith(says)
    assert sorted(path for path in ocifs.home.rglob("*") if "cache" not in path.parts) == before
    assert (ocifs.home / "file").read_bytes() == b"kept"


@pytest.mark.parametrize("form", _FORMS)
def test_a_path_that_is_not_in_the_image(ocifs: Ocifs, demo: Path, form: str) -> None:
    assert ocifs.complaint(3, "export", demo, "/none", form, "out").startswith("/none/: no such file")
    assert "out" not in os.listdir(ocifs.home)


@pytest.mark.parametrize("form", _FORMS)
def test_a_full_disk(ocifs: Ocifs, large: Path, small_disk: Path, form: str) -> None:
    target = small_disk / "out"
    assert ocifs.complaint(1, "export", large, form, target) == f"{target}: No space left on device"
    assert os.listdir(small_disk) == []


_SIGNALLED = """
import os, sys
from ocifs.cli.main import main
def signalled(call):
    def call_signalled(*arguments, **named):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
        return call(*arguments, **named)
    return call_signalled
os.pwrite, os.fsync, os.unlink = map(signalled, (os.pwrite, os.fsync, os.unlink))
main()
"""
"""Is sent a signal when it has begun to write a directory, when a file is whole, and when it clears away."""


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_half_way_leaves_nothing_and_it_can_be_run_again(
    ocifs: Ocifs, demo: Path, tmp_path: Path, form: str, number: signal.Signals
) -> None:
    ocifs.output("index", demo)
    place = tmp_path / "place"
    place.mkdir()
    command = [sys.executable, "-c", _SIGNALLED, "export", str(demo), form, str(place / "out")]
    ran = subprocess.run(command, env=ocifs.variables(SIGNAL=str(int(number))), capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, b"", b"ocifs: interrupted\n")
    assert os.listdir(place) == []
    ocifs.output("export", demo, form, place / "out")
    assert os.listdir(place) == ["out"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_half_way_through_cp_leaves_nothing(
    ocifs: Ocifs, demo: Path, tmp_path: Path, number: signal.Signals
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    command = [sys.executable, "-c", _SIGNALLED, "cp", "-r", str(demo), "/", str(place / "out")]
    ran = subprocess.run(command, env=ocifs.variables(SIGNAL=str(int(number))), capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (130, b"ocifs: interrupted\n")
    assert os.listdir(place) == []


@pytest.mark.parametrize("form", _FORMS)
def test_a_bar_is_drawn(ocifs: Ocifs, large: Path, tmp_path: Path, form: str) -> None:
    ocifs.output("index", large)
    assert "exporting" in on_a_terminal(ocifs, "export", large, form, tmp_path / "out")


def test_a_tar_is_not_written_to_a_terminal(ocifs: Ocifs, demo: Path) -> None:
    with pytest.raises(AssertionError, match="standard output is a terminal"):
        on_a_terminal(ocifs, "export", demo, "--to-tar", "-")


@pytest.fixture
def theirs(user: Ocifs) -> Path:
    """The image with one of everything, where an ordinary user may read it."""
    return image(user.home / "image", wide=False)


def test_an_ordinary_user_is_told_what_could_not_be(user: Ocifs, theirs: Path) -> None:
    out = user.home / "out"
    result = user.run("export", theirs, "--to-dir", out)
    warnings = [line.removeprefix("ocifs: warning: ") for line in result.err.splitlines()]
    assert (result.code, result.out) == (0, b"")
    assert [warning.partition(": ")[2] for warning in warnings] == [
        "owned by you instead (chown needs root)",
        "without an extended attribute (refused by the system)",
        "left out (mknod needs root)",
        "not setuid or setgid (the owner could not be set)",
    ]
    assert warnings[2].startswith("/disk and 1 other file: ")
    assert warnings[3].startswith("/setuid: ")
    assert (out / "regular").read_bytes() == b"regular file\n"
    assert stat.S_IMODE((out / "setuid").stat().st_mode) == 0o755
    assert stat.S_ISFIFO((out / "fifo").stat().st_mode)


def test_an_ordinary_user_gets_the_same_tar_and_erofs_file(
    ocifs: Ocifs, user: Ocifs, theirs: Path, tmp_path: Path, root: None
) -> None:
    for form in ("--to-tar", "--to-erofs"):
        user.output("export", theirs, form, user.home / form)
        ocifs.output("export", theirs, form, tmp_path / form)
        assert (user.home / form).read_bytes() == (tmp_path / form).read_bytes()


def test_an_ordinary_user_s_rootless_export(user: Ocifs, theirs: Path) -> None:
    out = user.home / "out"
    result = user.run("export", theirs, "--rootless", "--to-dir", out)
    assert result.code == 0
    assert "/disk and 1 other file: an empty file instead of a device" in result.err
    assert "belong to you" not in result.err
    assert os.getxattr(out / "regular", "user.rootlesscontainers") == b"\x08\xe8\x07\x10\xe9\x07"
    assert (out / "null").read_bytes() == b""


_FAIL_AT_LAST = """
import os
from ocifs.cli.main import main
def fail(*names, src_dir_fd=None, dst_dir_fd=None):
    if src_dir_fd is not None:
        raise OSError(5, "failed")
    os.replace(*names)
os.rename = fail
main()
"""


def test_what_an_ordinary_user_may_not_enter_is_cleared_away_too(user: Ocifs) -> None:
    """It fails at the very last, when directories have their modes."""
    members = [directory(b"./", mode=0), directory(b"d/", mode=0o555), file(b"d/f"), directory(b"d/closed/", mode=0)]
    layout = write_layout(user.home / "image", Image(layers=(Layer(tar([*members, file(b"d/closed/f")])),)))
    out = user.home / "place/out"
    out.parent.mkdir()
    out.parent.chmod(0o777)
    user.output("index", layout)  # so that only the export renames anything
    command = [*user.become, user.interpreter, "-c", _FAIL_AT_LAST, "export", str(layout), "--to-dir", str(out)]
    ran = subprocess.run(command, env=user.variables(), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, f"ocifs: {out}: failed\n")
    assert os.listdir(out.parent) == []


def test_another_user_s_directory(user: Ocifs, theirs: Path, tmp_path: Path, root: None) -> None:
    (user.home / "theirs").mkdir()
    assert user.complaint(1, "export", theirs, "--to-dir", "theirs/out").endswith("theirs/out: Permission denied")


def test_an_image_of_an_export_is_the_same(ocifs: Ocifs, demo: Path, tmp_path: Path) -> None:
    data = ocifs.run("export", demo, "--to-tar", "-").out
    again = write_layout(tmp_path / "again", Image(layers=(Layer(data),)))
    listed = [
        [
            json.loads(line) | {"inode": 0, "layer": 0}
            for line in ocifs.output("ls", "-R", "--json", layout).splitlines()
        ]
        for layout in (demo, again)
    ]
    assert listed[0] == listed[1]
