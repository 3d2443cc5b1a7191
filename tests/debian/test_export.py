"""A real image written out is what `umoci unpack` makes of it, in every form."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.debian.view import view
from tests.erofs.kernel import mounted

_RSYNC = ["rsync", "-aHAXn", "--numeric-ids", "--delete", "--itemize-changes"]


@pytest.fixture(scope="module")
def directory(session_ocifs: Ocifs, debian: Path, root: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    session_ocifs.output("export", f"{debian}:latest", "--to-dir", out)
    return out


def equal(one: Path, other: Path) -> bool:
    for source, target in [(one, other), (other, one)]:
        ran = subprocess.run([*_RSYNC, f"{source}/", f"{target}/"], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    return view(one) == view(other)


def test_a_directory(directory: Path, debian: Path) -> None:
    assert equal(directory, debian / "bundle-latest/rootfs")


def test_a_tar_is_always_the_same_and_tar_extracts_the_directory(
    session_ocifs: Ocifs, directory: Path, debian: Path, tmp_path: Path
) -> None:
    session_ocifs.output("export", f"{debian}:latest", "--to-tar", tmp_path / "one")
    with (tmp_path / "two").open("wb") as out:
        command = session_ocifs.command("export", f"{debian}:latest", "--to-tar", "-")
        subprocess.run(command, stdout=out, env=session_ocifs.variables(), check=True)
    subprocess.run(["cmp", tmp_path / "one", tmp_path / "two"], check=True)
    (tmp_path / "out").mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--warning=no-timestamp", "-p"]
    subprocess.run(["tar", *options, "-xf", tmp_path / "one", "-C", tmp_path / "out"], check=True)
    assert equal(tmp_path / "out", directory)


def test_an_erofs_file_is_mounted_and_is_the_directory(
    session_ocifs: Ocifs, directory: Path, debian: Path, tmp_path: Path
) -> None:
    session_ocifs.output("export", f"{debian}:latest", "--to-erofs", tmp_path / "out")
    with mounted(tmp_path / "out", tmp_path / "mnt"):
        assert equal(tmp_path / "mnt", directory)
