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


def test_the_demo_runs_without_a_home_and_leaves_nothing(ocifs: Ocifs, fuse: None) -> None:
    if not (_ROOT / ".venv/installed").exists() or shutil.which("dpkg-query") is None:
        pytest.skip("scripts/setup has not made .venv")
    environment = ocifs.variables(PATH=os.environ["PATH"])
    del environment["HOME"]
    ran = subprocess.run(
        [_ROOT / "scripts/run"], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert ran.returncode == 0, ran
    assert "unbound" not in ran.stderr, ran
    assert "$ ocifs mount" in ran.stdout
    assert "This is the second layer" in ran.stdout
    assert "\033" not in ran.stdout, "no colours unless on a terminal"
    assert ".local/bin" in ran.stdout, "how to put ocifs on the PATH"
    assert list(ocifs.temporary.iterdir()) == []


@pytest.mark.parametrize("is_on_path", [True, False])
def test_how_to_put_ocifs_on_the_path(ocifs: Ocifs, is_on_path: bool) -> None:
    """The end of the demo, without HOME, of a checkout with a space in its path."""
    tail = (_ROOT / "scripts/run").read_text().partition("\nEND\n")[2]
    checkout = ocifs.home / "a checkout"
    (checkout / "scripts").mkdir(parents=True)
    directory = f"{pwd.getpwuid(os.geteuid()).pw_dir}/.local/bin"
    ran = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\nhere={shlex.quote(str(checkout / 'scripts'))}\n{tail}"],
        capture_output=True,
        text=True,
        env={"PATH": f"/usr/bin:/bin:{directory}" if is_on_path else "/usr/bin:/bin"},
        check=True,
    )
    assert ran.stderr == ""
    assert ("add that directory to your PATH" in ran.stdout) != is_on_path
    (link,) = re.findall(r"^To type ocifs .*: mkdir -p ~/.local/bin && (ln .*)$", ran.stdout, re.MULTILINE)
    assert shlex.split(link) == ["ln", "-s", f"{checkout}/.venv/bin/ocifs", "~/.local/bin/"]
