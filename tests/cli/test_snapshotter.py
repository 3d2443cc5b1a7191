"""`ocifs snapshotter`, as far as it needs no containerd."""

import configparser
import shlex
import sys
from pathlib import Path

import pytest

from ocifs.cli.verbs import run


def test_the_unit_starts_this_command_before_containerd(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["snapshotter", "unit"], None) == 0
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign] # keep the case of names
    unit.read_string(capfd.readouterr().out)
    assert shlex.split(unit["Service"]["ExecStart"]) == [str(Path(sys.executable).with_name("ocifs")), "snapshotter"]
    assert "containerd.service" in unit["Unit"]["Before"].split()
    assert unit["Service"]["Type"] == "notify"
    assert unit["Service"]["KillMode"] == "process"
