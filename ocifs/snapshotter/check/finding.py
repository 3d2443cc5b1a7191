"""A finding: its subject, the result, and advice."""

from typing import Literal

import msgspec

Level = Literal["ok", "warning", "error"]


class Finding(msgspec.Struct, frozen=True):
    """One line of a diagnosis."""

    level: Level
    """`error`: images are not served; `warning`: some are not, or something will surprise."""
    subject: str
    """Such as `containerd`, `kernel`, `registry`."""
    message: str
    advice: str = ""
    """What to do; empty if nothing."""

    def __str__(self) -> str:
        return f"{self.level:7}  {self.subject}: {self.message}" + (f": {self.advice}" if self.advice else "")


def ok(subject: str, message: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding("ok", subject, message)


def warning(subject: str, message: str, advice: str) -> Finding:
    """Return a finding that may need an action."""
    return Finding("warning", subject, message, advice)


def error(subject: str, message: str, advice: str) -> Finding:
    """Return a finding that needs an action."""
    return Finding("error", subject, message, advice)
