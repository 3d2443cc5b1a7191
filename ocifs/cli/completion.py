"""`ocifs completion`: shell completion scripts."""

from pathlib import Path

import click

from ocifs.cli.command import command

_SCRIPTS = {"bash": "ocifs.bash", "zsh": "_ocifs", "fish": "ocifs.fish"}


@command()
@click.argument("shell", type=click.Choice(list(_SCRIPTS)))
def completion(shell: str) -> None:
    """Print a script that completes commands, options, images and paths in SHELL.

    Packages install it: it is needed only for an installation by pip or from source.

    \b
    Try:  source <(ocifs completion bash)     in ~/.bashrc
          source <(ocifs completion zsh)      in ~/.zshrc, after compinit
          ocifs completion fish | source      in ~/.config/fish/config.fish
    """
    click.echo((Path(__file__).parent / "complete" / _SCRIPTS[shell]).read_text(), nl=False)
