"""The console blocks of a document: find them, run them in a shell, and compare what the shell prints.

A line that begins with `$ `, or with `# ` for root, is a command; the lines below it are its output. Numbers, dates and
digests may differ from the document, and a line `…` stands for any lines; all other text is compared. Above a block,
`<!-- not run: REASON -->` excludes it, and `<!-- first run: COMMAND -->` prepares it. One shell runs all blocks of a
document in turn, as a reader would.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

_BLOCK = re.compile(
    r"(?:<!-- (?:not run: (?P<reason>[^\n]+)|first run: (?P<before>[^\n]+)) -->\n)?```console\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
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


class Block(NamedTuple):
    """A console block; `line` is the number of its first line in the document."""

    line: int
    reason: str | None
    before: str | None
    steps: list[Step]


def blocks(text: str) -> Iterator[Block]:
    """Yield the console blocks of a document."""
    for match in _BLOCK.finditer(text):
        steps: list[Step] = []
        for line in match["text"].splitlines():
            if line.startswith(("$ ", "# ")):
                steps.append(Step(line[2:], []))
            elif steps and (line or steps[-1].output):
                steps[-1].output.append(line)
        for step in steps:
            while step.output and not step.output[-1]:  # an empty line before the next command
                step.output.pop()
        yield Block(text.count("\n", 0, match.start("text")) + 1, match["reason"], match["before"], steps)


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
    def start(cls, directory: Path, environment: Mapping[str, str]) -> Self:
        """Start a shell in `directory`, in a mount namespace of its own (root)."""
        return cls(
            subprocess.Popen(
                ["unshare", "--mount", "bash", "--noprofile", "--norc"],
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
