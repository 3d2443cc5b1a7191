"""A flag from habit that ocifs lacks ends in one error that says what to use."""

import click
import pytest
from click.testing import CliRunner

from ocifs.cli.command import command as a_command
from ocifs.cli.unsupported import each_unsupported, unsupported


@a_command()
@unsupported("-p", "--publish", use="`podman run -p`")
@each_unsupported("--detach", "-e --edit", use="add `&`")
@click.option("-i", is_flag=True)
@click.argument("image")
def command(image: str, i: bool) -> None:
    click.echo(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "80:80", "image"], "-p / --publish is not supported: `podman run -p`"),
        (["-p80:80", "image"], "-p / --publish is not supported: `podman run -p`"),
        (["-ip", "80:80", "image"], "-p / --publish is not supported: `podman run -p`"),
        (["--publish=80:80", "image"], "-p / --publish is not supported: `podman run -p`"),
        (["--publish", "80:80"], "-p / --publish is not supported: `podman run -p`"),
        (["--detach"], "--detach is not supported: add `&`"),
        (["image", "--edit"], "-e / --edit is not supported: add `&`"),
    ],
)
def test_the_error_names_the_alternative(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_without_such_a_flag_the_command_runs_and_its_help_lists_none() -> None:
    assert CliRunner().invoke(command, ["image"]).output == "image\n"
    assert "publish" not in CliRunner().invoke(command, ["--help"]).output
