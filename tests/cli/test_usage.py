"""Help, a usage error, a defect and completion as a user sees them; tests/cli/test_help.py has the tables."""

import subprocess

import ocifs as package
from tests.cli.command import Ocifs


def test_the_command_prints_its_help_and_version(ocifs: Ocifs) -> None:
    assert ocifs.output("help", "mount").startswith("Usage: ocifs mount [OPTIONS] IMAGE [MOUNTPOINT]\n")
    assert ocifs.output("-V") == f"ocifs {package.__version__}\n"


def test_wrong_usage_is_2(ocifs: Ocifs) -> None:
    result = ocifs.run("ls", "--unknown", "image")
    assert (result.code, result.out) == (2, b"")
    assert result.err.startswith("ocifs: no such option: --unknown\nUsage: ocifs ls [OPTIONS] IMAGE")


def test_a_defect_is_one_line_with_its_own_code(ocifs: Ocifs) -> None:
    broken = "import ocifs.cli.view as o; o.View.open = None; from ocifs.cli.main import main; main()"
    command = [ocifs.interpreter, "-c", broken, "ls", "/"]
    quiet = subprocess.run(command, env=ocifs.variables(), capture_output=True, text=True, check=False)
    assert quiet.returncode == 70
    assert quiet.stderr.count("\n") == 1
    assert "OCIFS_DEBUG=1" in quiet.stderr
    loud = subprocess.run(command, env=ocifs.variables(OCIFS_DEBUG="1"), capture_output=True, text=True, check=False)
    assert "Traceback" in loud.stderr
