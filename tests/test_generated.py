"""The files that `scripts/generate.py` makes from the code are current."""

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent


_MADE = [
    "docs/api-reference.md",
    "ocifs/cli/complete/commands.py",
    "ocifs/snapshotter/cri_pb2.py",
    "ocifs/snapshotter/cri_pb2.pyi",
    "ocifs/snapshotter/snapshots_pb2.py",
    "ocifs/snapshotter/snapshots_pb2.pyi",
]


@pytest.mark.parametrize("name", _MADE)
def test_generated_file_is_current(name: str) -> None:
    made = subprocess.run(
        [sys.executable, _ROOT / "scripts/generate.py", name], capture_output=True, text=True, check=True
    ).stdout
    assert made == (_ROOT / name).read_text(), "run scripts/generate.py"
