"""The demo of scripts/run, as the README offers it."""

import os
import pwd
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Ocifs

_ROOT = Path(__file__).parents[2]
_MOVED = 'mkdir -p "$1" && mount --bind "$2" "$1" && exec "$1/scripts/run"'


def test_the_demo_runs_and_leaves_nothing(ocifs: Ocifs, fuse: None) -> None:
    """It runs without HOME, and (as root) from a checkout with a space in its path."""
    if not (_ROOT / ".venv/installed").exists() or shutil.which("dpkg-query") is None:
        pytest.skip("scripts/setup has not made .venv")
    environment = ocifs.variables(PATH=os.environ["PATH"])
    del environment["HOME"]
    command, checkout = [str(_ROOT / "scripts/run")], _ROOT
    if os.geteuid() == 0:
        checkout = ocifs.home / "a checkout"
        command = ["unshare", "--mount", "sh", "-ec", _MOVED, "sh", str(checkout), str(_ROOT)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert ran.returncode == 0, ran
    assert "unbound" not in ran.stderr, ran
    assert "$ ocifs mount" in ran.stdout
    assert "This is the second layer" in ran.stdout
    assert "\033" not in ran.stdout, "no colours unless on a terminal"
    (how,) = re.findall(r"instead of scripts/run.*: mkdir -p ~/.local/bin && (ln .*)", ran.stdout)
    assert shlex.split(how) == ["ln", "-s", f"{checkout}/.venv/bin/ocifs", "~/.local/bin/"], "on the PATH"
    assert list(ocifs.temporary.iterdir()) == []


def test_the_demo_asks_for_the_directory_on_the_path(ocifs: Ocifs) -> None:
    """Only if it is not there: without HOME, that of the user in the password database."""
    tail = (_ROOT / "scripts/run").read_text().partition("\nEND\n")[2]
    assert tail
    bin_directory = f"{pwd.getpwuid(os.geteuid()).pw_dir}/.local/bin"
    for path, is_asked in ((f"/usr/bin:/bin:{bin_directory}", False), ("/usr/bin:/bin", True)):
        script = f"set -euo pipefail\nhere={shlex.quote(str(_ROOT / 'scripts'))}\n{tail}"
        ran = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, env={"PATH": path}, cwd=ocifs.home, check=True
        )
        assert ("add that directory to your PATH" in ran.stdout) == is_asked
        assert ran.stderr == ""
