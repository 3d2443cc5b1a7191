"""Help, usage errors, versions and completion: what every command says of itself."""

import subprocess

import pytest

import ocifs as package
from tests.cli.command import Ocifs

_COMMANDS = [
    [],
    ["mount"],
    ["umount"],
    ["mounts"],
    ["index"],
    ["inspect"],
    ["history"],
    ["ls"],
    ["tree"],
    ["find"],
    ["stat"],
    ["which"],
    ["du"],
    ["cat"],
    ["head"],
    ["cp"],
    ["cache"],
    ["cache", "ls"],
    ["cache", "prune"],
    ["cache", "clear"],
    ["completion"],
]

_HUMAN = [["ls"], ["tree"], ["du"]]
"""In which -h asks for sizes with a unit, as in those of the system."""


@pytest.mark.parametrize("command", _COMMANDS, ids=" ".join)
def test_help_says_how_to_use_it(ocifs: Ocifs, command: list[str]) -> None:
    text = ocifs.output(*command, "--help")
    assert text.startswith(f"Usage: {' '.join(['ocifs', *command])} [OPTIONS]")
    if command not in _HUMAN:
        assert text == ocifs.output(*command, "-h")
    assert max(map(len, text.splitlines())) <= 80


def test_help_lists_every_command_reference_and_exit_code(ocifs: Ocifs) -> None:
    text = ocifs.output("--help")
    for command in _COMMANDS[1:]:
        assert f"  {command[0]} " in text
    for word in ("oci:DIR", "oci-archive:FILE", "docker-archive:FILE", "Exit status"):
        assert word in text


def test_version(ocifs: Ocifs) -> None:
    assert ocifs.output("--version") == f"ocifs {package.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["unknown"],
        ["--unknown"],
        ["ls"],
        ["ls", "--unknown", "image"],
        ["cat", "image"],
        ["mount", "image"],
        ["umount"],
        ["cache", "prune"],
        ["cache", "prune", "--max-size", "many"],
        ["ls", "--max-cache-size", "-1", "image"],
        ["mount", "--span-cache", "64MX", "image", "mountpoint"],
        ["ls", "--platform", "no/such/platform/at/all", "image"],
        ["mount", "--read-timeout", "0", "image", "mountpoint"],
        ["mount", "--read-timeout", "nan", "image", "mountpoint"],
        ["completion", "tcsh"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_shows_where_help_is(ocifs: Ocifs, arguments: list[str]) -> None:
    result = ocifs.run(*arguments)
    assert (result.code, result.out) == (2, b"")
    assert "--help' for help." in result.err
    assert "\nError: " in result.err


def test_a_defect_is_one_line_with_its_own_code(ocifs: Ocifs) -> None:
    broken = "import ocifs.cli.options as o; o.Opening.open = None; from ocifs.cli.main import main; main()"
    command = [ocifs.interpreter, "-c", broken, "ls", "/"]
    quiet = subprocess.run(command, env=ocifs.variables(), capture_output=True, text=True, check=False)
    assert quiet.returncode == 70
    assert quiet.stderr.count("\n") == 1
    assert "OCIFS_DEBUG=1" in quiet.stderr
    loud = subprocess.run(command, env=ocifs.variables(OCIFS_DEBUG="1"), capture_output=True, text=True, check=False)
    assert "Traceback" in loud.stderr
