"""Variables of the command line, and of files."""

from pathlib import Path

import pytest

from ocifs.bundle.environment import parse_variable, read_variables


@pytest.mark.parametrize(
    ("text", "variable"),
    [("A=1", ("A", "1")), ("B", ("B", "2")), ("C", None), ("D=", ("D", "")), ("E= x=y ", ("E", " x=y "))],
)
def test_a_variable(text: str, variable: tuple[str, str] | None) -> None:
    assert parse_variable(text, {"B": "2"}) == variable


@pytest.mark.parametrize("text", ["", "=", "=1", " A=1", "A =1"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is neither NAME=VALUE nor NAME"):
        parse_variable(text, {})


def test_a_value_that_no_config_can_hold() -> None:
    with pytest.raises(ValueError, match="A is not UTF-8"):
        parse_variable("A=\udcff", {})
    with pytest.raises(ValueError, match="A is not UTF-8"):
        parse_variable("A", {"A": "\udcff"})


def test_a_file_has_one_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(b"# comment\n\n  A=1 # not one\r\nB='quoted'\nHOST\nNONE\nA=2\n")
    assert read_variables(path, {"HOST": "h"}) == {"A": "2", "B": "'quoted'", "HOST": "h"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"A=1\n=2\n", "line 2"),
        (b"A=\xff", "is not UTF-8"),
        (b"A=\0", "NUL"),
        (b"A=" + bytes([65]) * (1 << 20), "more than 1 MiB"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    if content is not None:
        (tmp_path / "env").write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        read_variables(tmp_path / "env", {})
