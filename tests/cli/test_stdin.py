"""Archives from standard input."""

import gzip
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocifs.errors import LimitError, NotFoundError, OcifsError, UnsupportedError
from ocifs.limits import Limits
from ocifs.sources.reference import parse_reference, split_path
from ocifs.sources.spool import open_stdin
from tests.cli.command import Ocifs
from tests.images import Image, Layer, docker_files, tar

SAVED = tar(dict(docker_files((Image((Layer(tar({"etc": None, "etc/motd": b"hi\n"})),)), ["app:1"]))))


@contextmanager
def pipe(data: bytes) -> Iterator[int]:
    """Yield the end of a pipe that has `data`, at most 64 KiB."""
    end, start = os.pipe()
    os.write(start, data)
    os.close(start)
    yield end
    os.close(end)


def test_a_pipe_is_copied(tmp_path: Path) -> None:
    notices: list[str] = []
    with pipe(SAVED) as stdin:
        fd = open_stdin(Limits(), notices.append, stdin, str(tmp_path))
    assert os.pread(fd, 1 << 20, 0) == SAVED
    os.close(fd)
    assert notices == [f"standard input is not a file: copying it to {tmp_path} (TMPDIR)"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_used_in_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(SAVED)
    with (tmp_path / "a").open("rb") as file:
        fd = open_stdin(Limits(), pytest.fail, file.fileno())
    assert os.fstat(fd).st_ino == (tmp_path / "a").stat().st_ino
    os.close(fd)


def test_a_file_that_was_partly_read_is_copied(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"skipped" + SAVED)
    with (tmp_path / "a").open("rb", buffering=0) as file:
        file.read(7)
        fd = open_stdin(Limits(), lambda notice: None, file.fileno())
    assert os.pread(fd, 1 << 20, 0) == SAVED
    os.close(fd)


@pytest.mark.parametrize(
    ("open_end", "limits", "error", "message"),
    [
        (lambda: pipe(b""), {}, NotFoundError, "standard input is empty"),
        (lambda: pipe(SAVED), {"spool": len(SAVED) - 1}, LimitError, "over the limit spool="),
    ],
)
def test_refused(
    open_end: Callable[[], Iterator[int]], limits: dict[str, int], error: type[OcifsError], message: str
) -> None:
    with open_end() as stdin, pytest.raises(error, match=message):  # type: ignore[attr-defined]
        open_stdin(Limits(**limits), lambda notice: None, stdin)


def test_terminals_and_directories_are_refused(tmp_path: Path) -> None:
    leader, terminal = os.openpty()
    directory = os.open(tmp_path, os.O_RDONLY)
    for fd, kind in ((terminal, "a terminal"), (directory, "a directory")):
        with pytest.raises(UnsupportedError, match=f"standard input is {kind}: pipe"):
            open_stdin(Limits(), pytest.fail, fd)
    for fd in (leader, terminal, directory):
        os.close(fd)


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(200_000))
    with (tmp_path / "a").open("rb", buffering=0) as file:
        file.read(1)
        message = f"cannot copy standard input to {small_disk}: No space left .* set TMPDIR"
        with pytest.raises(OcifsError, match=message):
            open_stdin(Limits(), lambda notice: None, file.fileno(), str(small_disk))


@pytest.mark.parametrize(
    ("text", "tag"), [("-", None), ("docker-archive:-", None), ("docker-archive:-:app:1", "app:1"), ("-:1", "1")]
)
def test_references(text: str, tag: str | None) -> None:
    reference = parse_reference(text, lambda path: False)
    assert (reference.is_stdin, reference.tag) == (True, tag)
    assert split_path(f"{text}:/etc", lambda path: False) == (text, "/etc")


def test_a_file_of_that_name_needs_its_directory() -> None:
    assert not parse_reference("./-", {"./-"}.__contains__).is_stdin
    assert not parse_reference("oci:-", {"-"}.__contains__).is_stdin
    with pytest.raises(NotFoundError):
        parse_reference("oci:-", lambda path: False)


@pytest.mark.parametrize("data", [SAVED, gzip.compress(SAVED)], ids=["tar", "gzip"])
def test_a_command_at_the_end_of_a_pipe(ocifs: Ocifs, data: bytes) -> None:
    command = ocifs.command("cat", "-", "/etc/motd")
    ran = subprocess.run(command, input=data, capture_output=True, env=ocifs.variables(), check=True)
    assert ran.stdout == b"hi\n"
    assert ran.stderr.startswith(b"ocifs: warning: standard input is not a file: copying it to ")
