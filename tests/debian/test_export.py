"""A real image written out is what `umoci unpack` makes of it, in every form."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.debian.view import view
from tests.erofs.kernel import mounted


@pytest.fixture(scope="module")
def unpacked(debian: Path, root: None) -> tuple[Path, set[bytes]]:
    """Return what umoci made of it, and how that looks."""
    rootfs = debian / "bundle-latest/rootfs"
    return rootfs, view(rootfs)


def check(directory: Path, unpacked: tuple[Path, set[bytes]]) -> None:
    command = ["rsync", "-aHAXn", "--numeric-ids", "--delete", "--itemize-changes", f"{directory}/", f"{unpacked[0]}/"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert view(directory) ^ unpacked[1] == set()


def test_a_directory(session_ocifs: Ocifs, debian: Path, unpacked: tuple[Path, set[bytes]], tmp_path: Path) -> None:
    session_ocifs.output("export", f"{debian}:latest", "--to-dir", tmp_path / "out")
    check(tmp_path / "out", unpacked)


def test_a_tar_is_always_the_same_and_tar_extracts_it(
    session_ocifs: Ocifs, debian: Path, unpacked: tuple[Path, set[bytes]], tmp_path: Path
) -> None:
    session_ocifs.output("export", f"{debian}:latest", "--to-tar", tmp_path / "one")
    with (tmp_path / "two").open("wb") as out:
        command = session_ocifs.command("export", f"{debian}:latest", "--to-tar", "-")
        subprocess.run(command, stdout=out, env=session_ocifs.variables(), check=True)
    subprocess.run(["cmp", tmp_path / "one", tmp_path / "two"], check=True)
    (tmp_path / "out").mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--warning=no-timestamp", "-p"]
    subprocess.run(["tar", *options, "-xf", tmp_path / "one", "-C", tmp_path / "out"], check=True)
    check(tmp_path / "out", unpacked)


def test_an_erofs_file_is_mounted(
    session_ocifs: Ocifs, debian: Path, unpacked: tuple[Path, set[bytes]], tmp_path: Path
) -> None:
    session_ocifs.output("export", f"{debian}:latest", "--to-erofs", tmp_path / "out")
    with mounted(tmp_path / "out", tmp_path / "mnt"):
        check(tmp_path / "mnt", unpacked)
