"""The demo of scripts/run, as the README offers it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Ocifs

_ROOT = Path(__file__).parents[2]


def test_the_demo_runs_and_leaves_nothing(ocifs: Ocifs, fuse: None) -> None:
    if not (_ROOT / ".venv/installed").exists() or shutil.which("dpkg-query") is None:
        pytest.skip("scripts/setup has not made .venv")
    environment = ocifs.variables(HOME=str(ocifs.home), PATH=os.environ["PATH"])
    ran = subprocess.run(
        [_ROOT / "scripts/run"], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert ran.returncode == 0, ran
    assert "$ ocifs mount" in ran.stdout
    assert "This is the second layer" in ran.stdout
    assert "\033" not in ran.stdout, "no colours unless on a terminal"
    assert ".local/bin" in ran.stdout, "how to put ocifs on the PATH"
    assert list(ocifs.temporary.iterdir()) == []
