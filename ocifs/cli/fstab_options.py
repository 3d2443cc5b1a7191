"""`-o` of `ocifs mount`: the options of mount(8) and fstab(5), and each of our own as `KEY[=VALUE]`.

They become options of the command line, before those that it has, which therefore prevail. Among themselves, later
words prevail over earlier ones, as for mount(8). Options that concern only mount(8) and systemd, or writing, have no
effect here.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import click

from ocifs.cli.command import Command, GroupedOption
from ocifs.errors import printable_path

_WORD = re.compile(r'(?:[^,"]|"[^"]*"|")+')
_EFFECTS = ("suid", "dev", "exec")
_USERS = {"user", "users", "owner", "group"}
"""An ordinary user may mount it, and thus it has none of the effects."""
_NOT_OURS = {
    *("ro", "rw", "defaults", "async", "sync", "dirsync", "silent", "loud", "mand", "nomand", "default_permissions"),
    *("auto", "noauto", "nofail", "fail", "nouser", "nousers", "noowner", "nogroup", "_netdev", "comment", "helper"),
    *("atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime"),
    *("lazytime", "nolazytime", "iversion", "noiversion"),
}
_OWN_OPTIONS = {"keep", "remount"}


class MountCommand(Command):
    """A command whose parameter `fstab_options` has the values of `-o`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of `-o` before the other arguments."""
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        lists = given.get("fstab_options")
        if isinstance(lists, (list, tuple)) and not ctx.resilient_parsing:
            words = [word for text in lists for word in split(text)]
            args = [*arguments(words, self.params), *args]
        return super().parse_args(ctx, args)


def split(text: str) -> list[str]:
    """Split a list at its commas, except those in a value in double quotes, which are removed."""
    return [word.replace('"', "") for word in _WORD.findall(text)]


def quoted(word: str) -> str:
    """Return a word as `split` reads it."""
    key, _, value = word.partition("=")
    return f'{key}="{value}"' if "," in value else word


def arguments(words: Iterable[str], parameters: Sequence[click.Parameter]) -> list[str]:
    """Return the arguments of the command line that mean the same. Raises UsageError for an unknown option."""
    own = dict(_named(parameters))
    effects = dict.fromkeys(_EFFECTS, False) | {"exec": True}
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        if key in _USERS:
            effects = dict.fromkeys(_EFFECTS, False)
        elif (effect := key.removeprefix("no")) in effects and not equals:
            effects[effect] = not key.startswith("no")
        elif (name := f"--{key.replace('_', '-')}") in own:
            found.append(_argument(key, name, value if equals else None, own[name]))
        elif not is_ignored(key):
            raise click.UsageError(f"unknown mount option '{printable_path(key)}': see `ocifs help mount`")
    found += [f"--{name}" for name in ("suid", "dev") if effects[name]]
    return found if effects["exec"] else [*found, "--noexec"]


def is_known(word: str, parameters: Sequence[click.Parameter]) -> bool:
    """Whether `arguments` accepts a word."""
    try:
        arguments([word], parameters)
    except click.UsageError:
        return False
    return True


def is_ignored(key: str) -> bool:
    """Whether a mount option has no effect here."""
    return key in _NOT_OURS or key.startswith(("x-", "X-"))


def _named(parameters: Sequence[click.Parameter]) -> Iterator[tuple[str, click.Option]]:
    """Yield the long names of the options that `-o` may set."""
    for each in parameters:
        if isinstance(each, click.Option) and (isinstance(each, GroupedOption) or each.name in _OWN_OPTIONS):
            for name in (*each.opts, *each.secondary_opts):
                yield name, each


def _argument(key: str, name: str, value: str | None, option: click.Option) -> str:
    if option.is_flag and value is not None:
        raise click.UsageError(f"mount option '{printable_path(key)}' takes no value")
    if not option.is_flag and value is None:
        raise click.UsageError(f"mount option '{printable_path(key)}' needs a value: {key}=VALUE")
    return name if value is None else f"{name}={value}"
