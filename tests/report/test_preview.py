"""The beginning of a file, for a screen."""

import pytest

from ocifs.report.preview import hex_lines, is_binary, text_lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\n\ntwo", ["one", "", "two"]),
        (b"a\tb", ["a       b"]),
        (b"\x1b[31mred\x07 caf\xc3\xa9 \xff", ["\\x1b[31mred\\x07 café \\xff"]),
    ],
)
def test_text(data: bytes, lines: list[str]) -> None:
    assert text_lines(data) == lines


def test_hex_is_as_hexdump_writes_it() -> None:
    assert hex_lines(bytes(range(0x41, 0x55))) == [
        "000000  41 42 43 44 45 46 47 48  49 4a 4b 4c 4d 4e 4f 50  |ABCDEFGHIJKLMNOP|",
        "000010  51 52 53 54                                       |QRST|",
    ]
    assert hex_lines(b"\0\x1b\xff") == [f"000000  00 1b ff{' ' * 42}|...|"]


def test_a_nul_makes_it_binary() -> None:
    assert is_binary(b"ELF\0")
    assert not is_binary("text ü".encode())
