"""Wheel and source distribution: the same sources yield the same bytes, with all data files."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from ocifs.cli.man import pages

_REPOSITORY = Path(__file__).parents[2]
_PYPROJECT = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())
_FOR_BUILDING = ("README.md", "LICENSE", "hatch_build.py", "pyproject.toml")

pytest.importorskip("hatchling")


def _build(checkout: Path, output: Path, umask: int) -> dict[str, Path]:
    """Build both from a copy of the sources with times and modes of its own; return their paths by suffix."""
    checkout.mkdir()
    shutil.copytree(_REPOSITORY / "ocifs", checkout / "ocifs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*_FOR_BUILDING, *_PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"].get("shared-data", {})):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_REPOSITORY / name, checkout / name)
    for path in checkout.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)
            os.utime(path, (umask + 1_700_000_000,) * 2)
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(output)]
    subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, umask=umask)
    return {path.suffix: path for path in output.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Path]]:
    place = tmp_path_factory.mktemp("builds")
    return [_build(place / f"checkout{umask}", place / f"dist{umask}", umask) for umask in (0o022, 0o077)]


@pytest.mark.parametrize("suffix", [".whl", ".gz"])
def test_two_builds_are_equal(built: list[dict[str, Path]], suffix: str) -> None:
    first, second = (hashlib.sha256(each[suffix].read_bytes()).hexdigest() for each in built)
    assert first == second


def test_the_wheel_has_the_man_pages_and_all_data_files(built: list[dict[str, Path]]) -> None:
    with zipfile.ZipFile(built[0][".whl"]) as wheel:
        names = {name.partition(".data/data/")[2] for name in wheel.namelist()}
    assert {f"share/man/man1/{name}" for name, _ in pages()} <= names
    assert set(_PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"].get("shared-data", {}).values()) <= names


def test_the_source_distribution_can_build_the_wheel(built: list[dict[str, Path]]) -> None:
    with tarfile.open(built[0][".gz"]) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {*_FOR_BUILDING, "ocifs/__init__.py"} <= names


def test_a_plain_installation_needs_no_compiler() -> None:
    """Of all dependencies, PyPI has no wheel of pyfuse3 only."""
    assert not [
        each for each in _PYPROJECT["project"]["dependencies"] if each.startswith(("pyfuse3", "trio", "textual"))
    ]
