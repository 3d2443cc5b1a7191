"""Environment variables of the command line: `--env` and the files of `--env-file`. Every error is a ValueError."""

from collections.abc import Mapping
from pathlib import Path

from ocifs.errors import printable_path

_MAX = 1 << 20
"""Bytes of a file."""


def parse_variable(text: str, inherited: Mapping[str, str]) -> tuple[str, str] | None:
    """Parse NAME=VALUE, or NAME for its value in `inherited`; return None if it is not in there."""
    name, equals, value = text.partition("=")
    if not name or name != name.strip():
        raise ValueError(f"{printable_path(text)!r} is neither NAME=VALUE nor NAME")
    if not equals and name not in inherited:
        return None
    variable = (name, value if equals else inherited[name])
    try:
        "".join(variable).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{printable_path(name)} is not UTF-8, so config.json cannot hold it") from None
    return variable


def read_variables(path: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Read a file with a variable on each line, as podman does: a `#` begins a comment, and quotes are kept."""
    shown = printable_path(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(_MAX + 1)
    except OSError as error:
        raise ValueError(f"{shown}: {error.strerror}") from None
    if len(data) > _MAX:
        raise ValueError(f"{shown} has more than {_MAX >> 20} MiB")
    if b"\0" in data:
        raise ValueError(f"{shown} contains a NUL character")
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{shown} is not UTF-8") from None
    variables: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.removesuffix("\r").lstrip()
        if not text or text.startswith("#"):
            continue
        try:
            variable = parse_variable(text, inherited)
        except ValueError as error:
            raise ValueError(f"{shown}, line {number}: {error}") from None
        if variable is not None:
            variables |= [variable]
    return variables
