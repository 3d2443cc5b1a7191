"""A real image written out is what `umoci unpack` makes of it, in every form."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.debian.view import view
from tests.depth import depth
from tests.erofs.kernel import mounted

Check = Callable[[Path], None]


@pytest.fixture
def check(debian: Path, root: None, unpacked: Callable[[str], frozenset[bytes]]) -> Check:
    """Compare a directory with what umoci made of the image."""

    def check(directory: Path) -> None:
        command = ["rsync", "-aHAXn", "--numeric-ids", "--delete", "--itemize-changes"]
        both = [f"{directory}/", f"{debian}/bundle-latest/rootfs/"]
        ran = subprocess.run([*command, *both], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert view(directory) ^ unpacked("latest") == set()

    return check


def test_a_directory(session_ocifs: Ocifs, debian: Path, check: Check, tmp_path: Path) -> None:
    session_ocifs.output("export", f"{debian}:latest", "--to-dir", tmp_path / "out")
    check(tmp_path / "out")


def test_tar_extracts_a_tar(session_ocifs: Ocifs, debian: Path, check: Check, tmp_path: Path) -> None:
    export = session_ocifs.command("export", f"{debian}:latest", "--to-tar", "-")
    (tmp_path / "out").mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--warning=no-timestamp", "-p"]
    with subprocess.Popen(export, stdout=subprocess.PIPE, env=session_ocifs.variables()) as exporting:
        subprocess.run(["tar", *options, "-x", "-C", tmp_path / "out"], stdin=exporting.stdout, check=True)
    assert exporting.returncode == 0
    check(tmp_path / "out")


def test_a_tar_is_always_the_same(session_ocifs: Ocifs, debian: Path, tmp_path: Path) -> None:
    image = f"{debian}:{depth('base', 'latest')}"
    session_ocifs.output("export", image, "--to-tar", tmp_path / "one")
    export = session_ocifs.command("export", image, "--to-tar", "-")
    with subprocess.Popen(export, stdout=subprocess.PIPE, env=session_ocifs.variables()) as exporting:
        subprocess.run(["cmp", tmp_path / "one", "-"], stdin=exporting.stdout, check=True)
    assert exporting.returncode == 0


def test_an_erofs_file_is_mounted(session_ocifs: Ocifs, debian: Path, check: Check, tmp_path: Path) -> None:
    session_ocifs.output("export", f"{debian}:latest", "--to-erofs", tmp_path / "out")
    with mounted(tmp_path / "out", tmp_path / "mnt"):
        check(tmp_path / "mnt")
