"""Find out what the word at the cursor is: a command, an option, or a value of some kind. It knows no image."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ocifs.cli.complete.commands import COMMANDS
from ocifs.cli.complete.model import CommandModel, OptionModel, Value, command_of

_PATTERNS = {"--regexp", "--file"}
"""Options of grep with the patterns, in place of the argument PATTERN."""


class CompletionRequest(NamedTuple):
    """The word at the cursor, and what precedes it."""

    word: str
    start: int
    """Where the value begins in the word: after `--option=`."""
    value: Value | None
    """What the word is, if it is a value."""
    command: CommandModel
    options: Mapping[str, str]
    """The values of the command's options so far, by their longest names."""
    arguments: Sequence[str]
    """The arguments so far."""
    offers_options: bool
    """Whether the word is the beginning of an option."""
    group: str = ""
    """The group of commands, if the word is one of them."""


def understand(words: Sequence[str]) -> CompletionRequest:
    """Return what the last of `words` is; the first one is `ocifs`."""
    command = command_of(COMMANDS[""])
    path = ""
    position = 1
    while command.subcommands:
        while position < len(words) - 1 and words[position].startswith("-"):
            position += 1
        if position >= len(words) - 1:
            word = words[-1]
            return CompletionRequest(word, 0, None, command, {}, (), word.startswith("-"), path)
        path = f"{path} {words[position]}".strip()
        position += 1
        if path not in COMMANDS:
            return CompletionRequest(words[-1], 0, "file", CommandModel("", ()), {}, (), offers_options=False)
        command = command_of(COMMANDS[path])
    return _in_command(command, words[position:])


def _in_command(command: CommandModel, words: Sequence[str]) -> CompletionRequest:
    by_name = {name: option for option in command.options for name in option.names}
    options: dict[str, str] = {}
    arguments: list[str] = []
    expected: OptionModel | None = None
    open_to_options = True
    for word in words[:-1]:
        if expected is not None:
            options[_longest(expected)] = word
            expected = None
        elif word == "--" and open_to_options:
            open_to_options = False
        elif word.startswith("-") and len(word) > 1 and open_to_options:
            expected, given = _option(word, by_name)
            options |= given
        else:
            arguments.append(word)
            open_to_options = open_to_options and not command.ends_options
    if _PATTERNS & options.keys():
        arguments.insert(0, "")  # as `ocifs grep` does
    word = words[-1]
    if expected is not None:
        return CompletionRequest(word, 0, expected.value, command, options, arguments, offers_options=False)
    if word.startswith("-") and open_to_options:
        name, equals, _ = word.partition("=")
        if equals and name in by_name and by_name[name].value is not None:
            return CompletionRequest(
                word, len(name) + 1, by_name[name].value, command, options, arguments, offers_options=False
            )
        return CompletionRequest(word, 0, None, command, options, arguments, offers_options=True)
    return CompletionRequest(
        word, 0, _argument(command, len(arguments)), command, options, arguments, offers_options=False
    )


def _option(word: str, by_name: Mapping[str, OptionModel]) -> tuple[OptionModel | None, dict[str, str]]:
    """Return the option whose value the next word is, if any, and the values in this word."""
    name, equals, value = word.partition("=")
    if word.startswith("--"):
        option = by_name.get(name)
        if option is None or option.value is None:
            return None, {}
        return (None, {_longest(option): value}) if equals else (option, {})
    for position, letter in enumerate(word[1:], 2):  # short flags may be joined, the last one with its value
        option = by_name.get(f"-{letter}")
        if option is not None and option.value is not None:
            return (None, {_longest(option): word[position:]}) if word[position:] else (option, {})
    return None, {}


def _longest(option: OptionModel) -> str:
    return max(option.names, key=len)


def _argument(command: CommandModel, position: int) -> Value:
    if position < len(command.arguments):
        return command.arguments[position]
    return command.arguments[-1] if command.repeats and command.arguments else "none"
