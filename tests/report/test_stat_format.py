"""Formats of stat: any text is refused or renders every file; names are quoted so that a shell reads them back."""

import shlex
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.image.opening import open_image
from ocifs.image.passwd import Names
from ocifs.image.rootfs import Rootfs
from ocifs.report.listing import Listed
from ocifs.report.stat_format import FormatError, parse_format, quoted
from tests import images, tars

LAYER = tars.tar(
    [
        tars.file(b"etc/passwd", b"app:x:7:7::/:/bin/sh\nother:x:7:7::/:/bin/sh\nbad\n\xff:x:8:8::/:/bin/sh\n"),
        tars.file(b"etc/group", b"staff:x:7:\n"),
        tars.file(b"owned", uid=7, gid=7),
        tars.file(b"odd", uid=8, gid=9),
        tars.file(b"past", mtime=tars.base256(-1, 12)),
        tars.file(b"far", mtime=tars.base256(2**40, 12)),
        tars.header(b"disk", flag=b"4", major=8, minor=17),
        tars.symlink(b"link\n", b"\xff"),
    ]
)


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rootfs]:
    layout = images.write_layout(tmp_path_factory.mktemp("image") / "i", images.Image((images.Layer(LAYER),)))
    with open_image(layout) as opened:
        yield opened.rootfs


def rendered(rootfs: Rootfs, form: bytes, path: bytes) -> bytes:
    nid = rootfs.lookup(path, follow=False)
    return parse_format(form, lambda name: name)(Listed.of(rootfs, path, nid), Names(rootfs))


@pytest.mark.parametrize(
    ("path", "form", "expected"),
    [
        (b"owned", b"%u %U %g %G", b"7 app 7 staff"),
        (b"odd", b"%U %G", b"\xef\xbf\xbd UNKNOWN"),
        (b"disk", b"%t,%T %Hr,%Lr %r", b"8,11 8,17 2065"),
        (b"past", b"%Y", b"-1"),
        (b"link\n", b"%N", b"'link'$'\\n' -> ''$'\\377'"),
        (b"owned", b"%W %w %B", b"0 - 512"),
    ],
)
def test_values_of_an_image(rootfs: Rootfs, path: bytes, form: bytes, expected: bytes) -> None:
    assert rendered(rootfs, form, path) == expected


@given(
    st.lists(
        st.one_of(st.binary(max_size=4), st.sampled_from([b"%", b"%-5", b"%010", b"%.2", b"%#", b"n", b"N", b"y"]))
    ).map(b"".join)
)
def test_any_format_is_refused_or_renders_every_file(rootfs: Rootfs, form: bytes) -> None:
    try:
        render = parse_format(form, lambda name: name, escapes=True)
    except FormatError:
        return
    for path, inode in rootfs.walk():
        assert isinstance(render(Listed.of(rootfs, path, inode.nid), Names(rootfs)), bytes)


def test_a_shell_reads_a_quoted_name_back() -> None:
    names = [
        b"plain",
        b"it's",
        b"\"both' $x",
        b"two\nlines",
        b"\x01\x7f9",
        b"\xff\xfe",
        "é漢".encode(),
        b"back\\n",
        b"'\n'",
    ]
    script = "printf '%s\\0' " + " ".join(quoted(name).decode(errors="surrogateescape") for name in names)
    ran = subprocess.run(["bash", "-c", script], check=True, capture_output=True)
    assert ran.stdout.split(b"\0")[:-1] == names
    assert all(quoted(name).decode().isprintable() for name in names)
    assert shlex.split(quoted(b"it's").decode()) == ["it's"]
