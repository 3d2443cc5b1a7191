"""The values of a container's options, as users type them: sizes, numbers, names, paths.

Each function returns the parsed value, or raises ValueError with a message that repeats the value.
"""

import math
import os
import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import click

from ocifs.bundle.paths import check_utf8
from ocifs.cli.types import parse_size
from ocifs.errors import printable_path

T = TypeVar("T")

_MIN_MEMORY = 6 << 20
"""Bytes; with less, no container starts."""
_MIN_CPUS = 0.01
_UMASK = re.compile(r"[0-7]{1,3}|0[0-7]{3}")
_MAX_OOM_SCORE_ADJ = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Parsed(click.ParamType[T]):
    """A value that a function parses; its ValueError is the message."""

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Parse."""
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_memory(text: str) -> int | None:
    """Parse a number of bytes; return None, no limit, for 0. Raises ValueError."""
    size = parse_size(text)
    if size is None:
        raise ValueError(f"{text!r} is not a size: write 512m or 2g")
    if 0 < size < _MIN_MEMORY:
        raise ValueError(f"{text!r} is less than a container needs: 6m is the least")
    return size or None


def parse_cpus(text: str) -> float | None:
    """Parse a number of processors; return None, no limit, for 0. Raises ValueError."""
    most = os.cpu_count() or 1
    try:
        cpus = float(text)
    except ValueError:
        cpus = math.nan
    if cpus == 0:
        return None
    if not _MIN_CPUS <= cpus <= most:
        raise ValueError(f"{text!r} is not a number of processors from {_MIN_CPUS} to {most}")
    return cpus


def parse_pids(text: str) -> int | None:
    """Parse a number of processes; return None, no limit, for 0 and -1. Raises ValueError."""
    try:
        number = int(text)
    except ValueError:
        number = -2
    if not -1 <= number < 1 << 31:
        raise ValueError(f"{text!r} is not a number of processes; -1 is no limit")
    return number if number > 0 else None


def parse_network(text: str) -> Literal["none", "host"]:
    """Parse a network. Raises ValueError."""
    if text not in {"none", "host"}:
        raise ValueError(f"{text!r} is not supported: use none or host, or `podman run --network {text}`")
    return "host" if text == "host" else "none"


def parse_entrypoint(text: str) -> tuple[str, ...]:
    """Parse a program, or a JSON array of words; return nothing for an empty string. Raises ValueError."""
    if not text:
        return ()
    import json

    try:
        words = json.loads(text) if text.startswith("[") else text
    except (ValueError, RecursionError):
        words = text  # the program `[` is called so
    if isinstance(words, str):
        return (words,)
    if not all(isinstance(each, str) for each in words):
        raise ValueError(f"{text} is not a JSON array of strings")
    return tuple(words)


def parse_workdir(text: str) -> str:
    """Return an absolute path without `..`. Raises ValueError."""
    if not text.startswith("/") or ".." in text.split("/"):
        raise ValueError(f"{text!r} must be an absolute path without '..'")
    return text


def parse_name(text: str) -> str:
    """Return the name of a container. Raises ValueError."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a name: up to 64 letters, digits, '_', '.' and '-'; the first no sign")
    return text


def parse_user(text: str) -> str:
    """Return `USER[:GROUP]`, the numbers of which are ids. Raises ValueError."""
    from ocifs.bundle.user import check_ids

    check_ids(text)
    return text


def parse_umask(text: str) -> int:
    """Parse an octal file mode creation mask. Raises ValueError."""
    if not _UMASK.fullmatch(text):
        raise ValueError(f"{text!r} is not an octal mask from 0 to 0777")
    return int(text, 8)


def parse_oom_score_adj(text: str) -> int:
    """Parse a number from -1000 to 1000. Raises ValueError."""
    try:
        number = int(text)
    except ValueError:
        number = _MAX_OOM_SCORE_ADJ + 1
    if abs(number) > _MAX_OOM_SCORE_ADJ:
        raise ValueError(f"{text!r} is not a number from -{_MAX_OOM_SCORE_ADJ} to {_MAX_OOM_SCORE_ADJ}")
    return number


def parse_annotation(text: str) -> tuple[str, str]:
    """Parse KEY=VALUE. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"{printable_path(text)!r} is not KEY=VALUE")
    check_utf8(text)
    return key, value


def parse_runtime(text: str) -> str:
    """Return the name or path of a program. Raises ValueError."""
    import shutil

    if shutil.which(text) is None:
        raise ValueError(f"{printable_path(text)!r} is not a program: name runc, crun or a path")
    return text
