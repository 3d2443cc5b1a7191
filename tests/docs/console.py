"""The console blocks of a document: find them, run them in a shell, and compare what the shell prints.

A line that begins with `$ `, or with `# ` for root, is a command; the lines below it are its output. Numbers, dates and
digests may differ from the document, and a line `…` stands for any lines; all other text is compared. One shell runs
all blocks of a document in turn, as a reader would. Marks directly above a block, one on a line, change that:

    <!-- not run: REASON -->       leave the block out
    <!-- if: COMMAND -->           leave it out unless this command succeeds
    <!-- first run: COMMAND -->    prepare the block
    <!-- as user -->               run it, and what prepares it, in the shell of an ordinary user
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

_FENCE = re.compile(
    r"(?P<marks>(?:^<!--[^\n]*-->\n)*)^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
_MARK = re.compile(r"<!-- (?:(not run|if|first run): (\S.*)|(as user)) -->")
_END = re.compile(rb"(?s)(.*)\x1e(\d+)\n")

_VARIES = [
    (re.compile(r"\\?-?\d+(?:\\?[.,:]\d+)*(?:\\ (?:[KMGT]i)?B\b|[KMG]\b)?"), r"[-\\d.,:]+(?: ?(?:[KMGT]i)?B|[KMGB])?"),
    (re.compile(r"(?:\\ )+"), " +"),
    (re.compile("…"), ".*"),
]
_DIGEST = re.compile(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{12,64}(?:…|\b)")


class Step(NamedTuple):
    """A command, and the lines that the document shows below it."""

    command: str
    output: list[str]

    def may_exit_with(self, status: int) -> bool:
        """Return whether the command may have that exit status: if the document shows an error, or it means "found"."""
        finds = self.command.startswith(("ocifs diff ", "ocifs grep ", "ocifs waste "))
        errors = ("ocifs: ", f"{self.command.split()[0]}: ")
        return status == 0 or (status == 1 and finds) or any(line.startswith(errors) for line in self.output)


class Fence(NamedTuple):
    """A fenced block of any language; `line` is the number of its first line in the document."""

    line: int
    marks: list[str]
    language: str
    text: str


class Block(NamedTuple):
    """A console block, with what its marks say."""

    line: int
    steps: list[Step]
    reason: str | None = None
    condition: str | None = None
    before: str | None = None
    as_user: bool = False


_FIELDS = {"not run": "reason", "if": "condition", "first run": "before"}


def fences(text: str) -> Iterator[Fence]:
    """Yield the fenced blocks of a document, without their indentation."""
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        lines = [each.removeprefix(match["indent"]) for each in match["text"].splitlines()]
        yield Fence(line, match["marks"].splitlines(), match["language"], "\n".join(lines))


def blocks(text: str) -> Iterator[Block]:
    """Yield the console blocks of a document. Raises ValueError if a mark is unknown, or lacks its value."""
    for fence in fences(text):
        if fence.language == "console":
            yield Block(fence.line, _steps(fence.text), **_marks(fence))


def _steps(text: str) -> list[Step]:
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith(("$ ", "# ")):
            steps.append(Step(line[2:], []))
        elif steps and (line or steps[-1].output):
            steps[-1].output.append(line)
    for step in steps:
        while step.output and not step.output[-1]:  # an empty line before the next command
            step.output.pop()
    return steps


def _marks(fence: Fence) -> dict[str, Any]:
    """Return the fields of a block that its marks set."""
    found: dict[str, Any] = {}
    for mark in fence.marks:
        match = _MARK.fullmatch(mark)
        if match is None:
            raise ValueError(f"line {fence.line}: not a mark of a console block: {mark}")
        found |= {"as_user": True} if match[3] else {_FIELDS[match[1]]: match[2]}
    return found


def differs(expected: list[str], printed: list[str]) -> str | None:
    """Return the first line of the document that the output lacks, or the first one that it has beyond them."""
    rest = list(printed)
    while rest and not rest[-1].strip():
        rest.pop()
    skip = False
    for line in expected:
        if line.strip() == "…":
            skip = True
            continue
        while skip and rest and not _matches(line, rest[0]):
            rest.pop(0)
        if not rest or not _matches(line, rest[0]):
            return f"missing: {line!r}; printed: {rest[0] if rest else None!r}"
        rest.pop(0)
        skip = False
    return None if skip or not rest else f"not in the document: {rest[0]!r}"


def _matches(line: str, printed: str) -> bool:
    pattern = re.escape(_DIGEST.sub("\0", line.strip()))
    for varying, by in _VARIES:
        pattern = varying.sub(by, pattern)
    return re.fullmatch(pattern.replace("\\\0", "\0").replace("\0", "[0-9a-f]{12,64}"), printed.strip()) is not None


@dataclass(frozen=True)
class Shell:
    """A bash that runs one command after the other. As a context manager, it ends with all that it started."""

    process: "subprocess.Popen[bytes]"

    @classmethod
    def start(cls, directory: Path, environment: Mapping[str, str], become: Sequence[str] = ()) -> Self:
        """Start a shell in `directory`, in a mount namespace of its own (root); `become` runs it as another user."""
        return cls(
            subprocess.Popen(
                ["unshare", "--mount", *become, "bash", "--noprofile", "--norc"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=dict(environment),
                start_new_session=True,
            )
        )

    def run(self, command: str) -> tuple[int, list[str]]:
        """Run a command; return its exit status, and the lines that it printed to either output."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"(exit ${{status:-0}})\n{{ {command}\n}} </dev/null\n".encode())
        self.process.stdin.write(b"status=$?; printf '\\036%d\\n' \"$status\"\n")
        self.process.stdin.flush()
        printed = b""
        while (end := _END.fullmatch(printed)) is None:
            printed += self._more(command, printed)
        return int(end[2]), end[1].decode(errors="replace").splitlines()

    def _more(self, command: str, printed: bytes) -> bytes:
        assert self.process.stdout is not None
        more = os.read(self.process.stdout.fileno(), 1 << 16)
        assert more, f"the shell ended in {command!r}: {printed!r}"
        return more

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
