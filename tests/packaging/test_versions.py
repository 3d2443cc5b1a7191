"""Other installed versions of Python: all modules compile there without a warning.

`scripts/versions` runs tests with them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parents[2] / "ocifs"
_VERSIONS = ("3.11", "3.12", "3.13", "3.14")

_COMPILE = """
import sys
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        compile(file.read(), path, "exec", dont_inherit=True)
"""


def _interpreter(version: str) -> str | None:
    """Return an interpreter of a version: on PATH, of pyenv, of Debian, or one that `scripts/versions` has used."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    directories = [*map(Path, os.get_exec_path()), *pyenv.glob(f"{version}.*/bin"), _PACKAGE.parent / ".cache"]
    found = [each / f"python{version}" for each in directories]
    for path in [each / "bin/python" if each.is_dir() else each for each in found]:
        if path.exists() and not subprocess.run([path, "-c", ""], check=False, capture_output=True).returncode:
            return str(path)
    return None


@pytest.mark.parametrize("version", [each for each in _VERSIONS if not sys.version.startswith(each)])
def test_all_modules_compile_without_a_warning(version: str) -> None:
    if (python := _interpreter(version)) is None:
        pytest.skip(f"there is no Python {version}")
    modules = sorted(_PACKAGE.rglob("*.py"))
    command = [python, "-I", "-W", "error", "-c", _COMPILE, *map(str, modules)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
