"""Signals reach the command, and end a runtime that does not react to them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

_RUN = """
import sys
from pathlib import Path
from ocifs.bundle.runtime import Container
sys.exit(Container(sys.argv[1], Path(sys.argv[2])).run())
"""
_HEAD = """#!/bin/sh
trap : TERM
while [ "$1" != --pid-file ]; do shift; done
"""


@pytest.mark.parametrize(
    ("runtime", "status"),
    [
        pytest.param("echo ready; while :; do sleep 0.05; done", 143, id="which has not started the command"),
        pytest.param(
            'trap got=1 TERM; echo ready; while [ ! "$got" ]; do sleep 0.05; done; sleep 1.5; echo $$ >"$2"; exit 3',
            3,
            id="which has not written the PID yet",
        ),
        pytest.param(
            'sleep 1000 & echo $! >"$2"; echo ready; while :; do sleep 0.05; done',
            143,
            id="which does not notice the end of the command",
        ),
    ],
)
def test_a_signal_to_a_runtime(tmp_path: Path, runtime: str, status: int) -> None:
    program = tmp_path / "runtime"
    program.write_text(_HEAD + runtime)
    program.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", _RUN, program, tmp_path], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == status
        finally:
            process.kill()
