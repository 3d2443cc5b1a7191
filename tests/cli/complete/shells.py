"""A shell on a terminal, in which a test types. A key prints and clears the line, so no test waits for a time."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 60.0
_SHOWN = re.compile(rb"<<(.*?)>>", re.DOTALL)
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[()].|[=>])")
_SHOW = b"\x07"  # Ctrl-G

_START = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        """
        bind 'set bell-style none' 'set show-all-if-ambiguous on' 'set page-completions off'
        bind 'set completion-query-items 0'
        show() { printf '\\n\\074<%s>>\\n' "$READLINE_LINE"; READLINE_LINE=; }
        bind -x '"\\C-g": show'
        source {script}
        """,
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        """
        unsetopt beep zle_bracketed_paste; PS1='> '; LISTMAX=9999; bindkey -e
        autoload -Uz compinit; compinit -u -D
        show() { print -rn -- $'\\n\\074<'"$BUFFER>>"; BUFFER= }
        zle -N show; bindkey '^G' show
        source {script}
        """,
    ),
    "fish": (
        ["fish", "--no-config", "-i"],
        """
        function fish_prompt; echo '> '; end
        function show; printf '\\n\\074<%s>>\\n' (commandline); commandline -r ''; end
        bind \\cg show
        source {script}
        """,
    ),
}
SHELLS = tuple(_START)
SCRIPTS = {"bash": "ocifs.bash", "zsh": "_ocifs", "fish": "ocifs.fish"}


class Shell:
    """An interactive shell."""

    def __init__(self, terminal: int, process: "subprocess.Popen[bytes]") -> None:
        self._terminal = terminal
        self._process = process
        self.pid = process.pid
        self.name = ""

    def run(self, command: str) -> None:
        """Run a line, until the prompt takes keys again."""
        os.write(self._terminal, command.encode() + b"\r" + _SHOW)
        self._until_shown()

    def complete(self, typed: str) -> tuple[str, str]:
        """Type the beginning of a line and a tab; return the line, and the text that the terminal showed."""
        os.write(self._terminal, typed.encode(errors="surrogateescape") + b"\t" + _SHOW)
        return self._until_shown()

    def _until_shown(self) -> tuple[str, str]:
        deadline = time.monotonic() + _PATIENCE
        output = b""
        while (match := _SHOWN.search(output)) is None:
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the shell does not answer: {output!r}"
            output += os.read(self._terminal, 1 << 16)
        shown = output[: match.start()].decode(errors="replace")
        return match[1].decode(errors="surrogateescape"), _ESCAPE.sub(" ", shown)


@contextmanager
def started(name: str, script: Path, variables: Mapping[str, str], directory: Path) -> Iterator[Shell]:
    """Start a shell with the completion script loaded."""
    command, setup = _START[name]
    outer, inner = pty.openpty()
    process = subprocess.Popen(
        [*(["setsid", "--ctty"] if shutil.which("setsid") else []), *command],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        cwd=directory,
        env={**variables, "TERM": "xterm", "COLUMNS": "300", "LINES": "50", "HISTFILE": "/dev/null"},
    )
    os.close(inner)
    shell = Shell(outer, process)
    try:
        lines = [line.strip() for line in setup.replace("{script}", str(script)).strip().splitlines()]
        for line in lines[:-1]:
            os.write(outer, line.encode() + b"\r")
        shell.run(lines[-1])
        yield shell
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(outer)
