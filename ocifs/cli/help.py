"""`ocifs help`: the help of a command."""

import click

from ocifs.cli.command import command


@command()
@click.argument("words", metavar="[COMMAND...]", nargs=-1)
@click.pass_context
def help(context: click.Context, words: tuple[str, ...]) -> None:  # noqa: A001
    """Show the help of COMMAND, as `ocifs COMMAND --help` does; without COMMAND, list all commands.

    \b
    Try:  ocifs help mount
          ocifs help index push
    """
    described = context.find_root()
    for word in words:
        group = described.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"{described.command_path} has no command {word!r}")
        name, found, _ = group.resolve_command(described, [word])
        if found is None:
            raise click.UsageError(f"no such command {word!r}")
        described = click.Context(found, info_name=name, parent=described)
    click.echo(described.get_help())
