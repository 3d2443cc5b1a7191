"""Names in the colours of LS_COLORS."""

import pytest

from ocifs.image.opening import Image
from ocifs.report.colour import painter
from ocifs.report.listing import Listed


@pytest.mark.parametrize(
    ("path", "colours", "code"),
    [
        ("etc", "", "01;34"),
        ("gone", "", "30;42"),
        ("gone", "tw=0:ow=0", "37;44"),
        ("gone", "tw=0:ow=0:st=0:di=35", "35"),
        ("lib", "", "01;36"),
        ("pipe", "", "33"),
        ("null", "", "01;33"),
        ("usr/lib/lib.so", "", "01;32"),
        ("usr/lib/new", "", "37;41"),
        ("etc/passwd", "", None),
        ("etc/passwd", "fi=1", "1"),
        ("etc/passwd", "*wd=35:*passwd=36", "36"),
        ("etc/passwd", "*WD=35", "35"),
        ("usr/lib/lib.so", "ex=0:*.so=38;5;9", "38;5;9"),
        ("etc", "di=00", None),
        ("etc", "di=\x1b[2J", "01;34"),
        ("etc", "nonsense:=:di", "01;34"),
    ],
)
def test_paint(layered: Image, path: str, colours: str, code: str | None) -> None:
    entry = Listed.of(layered.rootfs, path.encode(), layered.rootfs.lookup(path, follow=False))
    expected = b"name" if code is None else f"\x1b[{code}mname\x1b[0m".encode()
    assert painter(colours)(b"name", entry) == expected
