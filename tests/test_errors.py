"""Messages: one line, and nothing in it that a terminal would obey."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs import errors
from ocifs.errors import OcifsError, counted, printable, printable_path, shortage


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain name.txt", "plain name.txt"),
        ("größe/名前".encode(), "größe/名前"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"a\x1b[31mred\nline\0", r"a\x1b[31mred\nline\x00"),
        ("\u202egpj.exe\u2028".encode(), r"\u202egpj.exe\u2028"),
        ("\x9b1m".encode(), r"\x9b1m"),
        (b"", ""),
    ],
)
def test_printable(name: bytes, shown: str) -> None:
    assert printable(name) == shown


@given(st.binary())
def test_whatever_a_name_holds_it_can_be_printed_on_one_line(name: bytes) -> None:
    shown = printable(name)
    assert shown.isprintable()
    shown.encode()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_text_is_shown_as_it_is(text: str) -> None:
    assert printable(text.encode()) == text


def test_an_argument_may_be_no_utf8() -> None:
    assert printable_path(os.fsdecode(b"a\xff\n")) == r"a\xff\n"


def test_each_class_has_an_exit_code_of_its_own() -> None:
    public = [each for each in OcifsError.__subclasses__() if not each.__name__.startswith("_")]
    subclasses = [each for each in public if not each.__module__.startswith(("ocifs.cli.", "ocifs.snapshotter."))]
    classes: list[type[OcifsError]] = [OcifsError, *subclasses]
    assert len({each.exit_code for each in classes}) == len(classes)
    assert {each.exit_code for each in classes}.isdisjoint({0, 2})  # success, and click's wrong usage
    assert {each for each in vars(errors).values() if isinstance(each, type)} >= set(classes)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory: raise the limit (ulimit -v, MemoryMax)"),
        (
            SystemError("<function f> returned NULL without setting an exception"),
            "out of memory: raise the limit (ulimit -v, MemoryMax)",
        ),
        (OSError(errno.ENOMEM, "whatever"), "out of memory: raise the limit (ulimit -v, MemoryMax)"),
        (
            ImportError("x.so: failed to map segment from shared object"),
            "out of memory: raise the limit (ulimit -v, MemoryMax)",
        ),
        (
            RuntimeError("can't start new thread"),
            "no more threads: raise the limit (ulimit -u, TasksMax, pids.max, ulimit -v)",
        ),
        (RuntimeError("a defect"), None),
        (
            ImportError("No module named 'x'", name="x"),
            "cannot load x: raise the limits on open files and memory (ulimit -n, ulimit -v), or install ocifs again",
        ),
        (OSError(errno.EIO, "whatever"), None),
    ],
    ids=repr,
)
def test_a_shortage_says_what_to_raise(error: Exception, said: str | None) -> None:
    short = shortage(error)
    assert (short and (str(short), short.exit_code)) == (said and (said, 6))


def test_counts_have_the_right_noun() -> None:
    assert [counted(number, "span") for number in (0, 1, 2)] == ["0 spans", "1 span", "2 spans"]
    assert [counted(number, "entry", "entries") for number in (1, 2)] == ["1 entry", "2 entries"]
