"""The command line as bash has it: words from the text before the cursor, and candidates as text for that line.

Readline replaces what follows the last character of COMP_WORDBREAKS, such as the colon of `IMAGE:TAG`, and inserts
candidates as they are; so they are cut there and quoted here (bash(1), QUOTING and COMP_WORDBREAKS).
"""

from typing import NamedTuple

from ocifs.cli.complete.model import Completion

_BLANKS = " \t\n"
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=@%+,-")
_IN_DOUBLE_QUOTES = '\\"$`'


class Line(NamedTuple):
    """The words up to the cursor."""

    words: list[str]
    """Without quotes; the last one is the one at the cursor."""
    kept: int
    """How many characters of that word readline keeps."""
    quote: str
    """The quotation mark that is open at the cursor, or empty."""
    has_tilde: bool
    """Whether the word begins with an unquoted tilde."""
    is_plain: bool
    """Whether the word has no expansion, which only the shell can make."""


class _Word:
    """A word that is being read."""

    def __init__(self) -> None:
        self.text = ""
        self.raw = ""
        self.kept = 0
        self.quote = ""
        self.is_plain = True

    def take(self, line: str, position: int, breaks: str) -> int:
        """Read the character at `position`, and the one after a backslash; return the next position."""
        character = line[position]
        self.raw += character
        if character == self.quote or (not self.quote and character in {'"', "'"}):
            self.quote = "" if self.quote else character
            self.kept = len(self.text)
        elif character == "\\" and self.quote != "'":
            escaped = line[position + 1 : position + 2]
            self.raw += escaped
            self.text += escaped if not self.quote or escaped in _IN_DOUBLE_QUOTES else character + escaped
            return position + 2
        else:
            self.text += character
            self.is_plain = self.is_plain and (self.quote == "'" or character not in "$`")
            if character in breaks and not self.quote:
                self.kept = len(self.text)
        return position + 1


def split(line: str, breaks: str) -> Line:
    """Split the text before the cursor as bash does, with the characters of COMP_WORDBREAKS."""
    words: list[_Word] = []
    word = _Word()
    position = 0
    while position < len(line):
        if line[position] in _BLANKS and not word.quote:
            words += [word] if word.raw else []
            word = _Word()
            position += 1
        else:
            position = word.take(line, position, breaks)
    while words and "=" in words[0].raw and words[0].raw.partition("=")[0].isidentifier():
        del words[0]  # an assignment before the command
    return Line([*_arguments(words), word.text], word.kept, word.quote, word.raw.startswith("~"), word.is_plain)


def _arguments(words: list[_Word]) -> list[str]:
    """Return the words that are not redirections."""
    kept: list[str] = []
    follows = False
    for word in words:
        operator = word.raw.lstrip("0123456789&")
        if follows or operator.startswith(("<", ">")):
            follows = not follows and not operator.strip("<>&|")
        else:
            kept.append(word.text)
    return kept


def insertions(line: Line, candidates: list[Completion]) -> list[str]:
    """Return the text that replaces the word at the cursor, for each candidate that can be written."""
    texts = []
    for candidate in candidates:
        rest = candidate.word[line.kept :]
        tilde = "~" if line.has_tilde and not line.kept else ""
        text = _quoted(rest.removeprefix(tilde), line.quote)
        if text is not None:
            # Within quotes, readline adds the closing one.
            texts.append(tilde + text + (" " if candidate.is_whole and not line.quote else ""))
    return texts


def _quoted(text: str, quote: str) -> str | None:
    if quote == "'":
        return None if "'" in text else text
    if quote == '"':
        if "!" in text:  # which no quoting protects there from history expansion
            return None
        return "".join(f"\\{character}" if character in _IN_DOUBLE_QUOTES else character for character in text)
    return "".join(character if character in _SAFE or ord(character) > 127 else f"\\{character}" for character in text)
