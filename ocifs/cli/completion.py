"""`ocifs completion`: shell completion scripts."""

import click
from click.shell_completion import get_completion_class

from ocifs.cli.command import command


@command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes ocifs commands in SHELL.

    \b
    Try:  ocifs completion bash >~/.local/share/bash-completion/completions/ocifs
    """
    complete = get_completion_class(shell)
    if complete is not None:  # click knows all three
        click.echo(complete(context.find_root().command, {}, "ocifs", "_OCIFS_COMPLETE").source())
