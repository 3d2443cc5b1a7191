"""`ocifs __complete SHELL …`, which the scripts of the shells call: print the answer to one request.

The first line is `words`, and candidates follow, one on each line. Otherwise the shell completes files: after the first
N characters of the word, if the answer is `files N`.
"""

import os
import signal
import sys
from collections.abc import Sequence

from ocifs.cli.complete import bash
from ocifs.cli.complete.candidates import Answer, answer, files
from ocifs.cli.complete.model import Completion
from ocifs.cli.complete.request import understand

_SECONDS = 2.0
"""After which a request is given up: a file system may hang, an archive may be large."""

_SEPARATORS = ":/="


def main(arguments: Sequence[str]) -> int:
    """Answer the request of a shell; return the exit status."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        lines = _SHELLS[arguments[0]](arguments[1:])
        sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
        sys.stdout.flush()
    except Exception:  # an error on the terminal would spoil the command line
        if os.environ.get("OCIFS_DEBUG"):
            raise
        return 1
    return 0


def _bash(arguments: Sequence[str]) -> list[str]:
    """Answer for COMP_WORDBREAKS and the line up to the cursor; candidates are text for the line."""
    breaks, text = arguments
    line = bash.split(text, breaks)
    if not line.is_plain:
        return ["files 0"]
    found = _answer(line.words)
    if found.files_from is None:
        if line.quote and len(found.candidates) == 1 and found.candidates[0].word.endswith("/"):
            # Readline would close the quotes behind a single candidate, so offer what is in that directory.
            inside = _answer([*line.words[:-1], found.candidates[0].word])
            found = inside if inside.candidates else found
        return ["words", *bash.insertions(line, found.candidates)]
    if found.files_from == line.kept or not line.words[-1]:
        return ["files 0"]
    # Readline would take another part of the word for the name of the file.
    return ["words", *bash.insertions(line, files(line.words[-1], found.files_from))]


def _zsh(words: Sequence[str]) -> list[str]:
    """Answer for the words up to the cursor: candidates from the last separator on, a tab, and their help.

    A space before the candidate says that more may follow it.
    """
    found = _answer(words)
    if found.files_from is not None:
        return [f"files {found.files_from}"]
    start = 1 + max(words[-1].rfind(separator) for separator in _SEPARATORS)
    return ["words", *(f"{'' if each.is_whole else ' '}{each.word[start:]}\t{each.help}" for each in found.candidates)]


def _fish(words: Sequence[str]) -> list[str]:
    """Answer for the words up to the cursor: candidates, a tab, and their help."""
    found = _answer(words)
    return ["files 0"] if found.files_from is not None else ["words", *map(_fish_line, found.candidates)]


def _fish_line(candidate: Completion) -> str:
    return f"{candidate.word}\t{candidate.help}"


def _answer(words: Sequence[str]) -> Answer:
    return answer(understand(words))


_SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
