"""Patterns over the names in an image, as a shell expands them."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.errors import NotFoundError
from ocifs.image.glob import expand
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from tests import images, tars

MEMBERS = [
    tars.file(b"etc/a.conf"),
    tars.file(b"etc/b.conf"),
    tars.file(b"etc/.hidden.conf"),
    tars.file(b"etc/conf.d/c.conf"),
    tars.file(b"etc/conf.d/.d/e.conf"),
    tars.file(b"etc/conf.d/deep/deeper/f.conf"),
    tars.symlink(b"etc/link.conf", b"a.conf"),
    tars.symlink(b"etc/dangling.conf", b"nowhere"),
    tars.symlink(b"conf", b"etc/conf.d"),
    tars.symlink(b"out", b"/etc"),
    tars.file(b"odd/[x]"),
    tars.file(b"odd/x"),
    tars.file(b"odd/a*b"),
    tars.file(b"odd/aab"),
    tars.file(b"odd/back\\slash"),
    tars.file(b"odd/two\nlines"),
    tars.file("odd/é".encode()),
    tars.file(b"odd/\xe9"),
]


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rootfs]:
    layer = images.Layer(tars.tar(MEMBERS))
    path = images.write_layout(tmp_path_factory.mktemp("image") / "layout", images.Image((layer,)))
    with open_image(str(path)) as opened:
        yield opened.rootfs


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files on the host; the absolute symlink leads nowhere else."""
    top = tmp_path_factory.mktemp("extracted")
    subprocess.run(["tar", "-xC", top], input=tars.tar(MEMBERS), check=True)
    (top / "out").unlink()
    (top / "out").symlink_to(top / "etc")
    return top


def by_bash(top: Path, pattern: bytes) -> list[bytes]:
    script = b'shopt -s globstar failglob; IFS=; printf "%s\\0" ' + pattern
    ran = subprocess.run(
        ["bash", "-c", script], cwd=top, env=os.environ | {"LC_ALL": "C.UTF-8"}, capture_output=True, check=False
    )
    return ran.stdout.split(b"\0")[:-1]


@pytest.mark.parametrize(
    "pattern",
    [
        "etc/*.conf",
        "etc/*",
        "etc/.*.conf",
        "etc/?.conf",
        "etc/[ab].conf",
        "etc/[!a].conf",
        "etc/[^a].conf",
        "etc/[a-c].conf",
        "*/a.conf",
        "*/*",
        "*/*/c.conf",
        "conf/*.conf",
        "conf/../*.conf",
        "out/*.conf",
        "./etc/*.conf",
        "etc/conf.d/*/",
        "*/conf.d/",
        "**/*.conf",
        "etc/**/*.conf",
        "**/conf.d/**/*.conf",
        "**/deeper",
        "odd/?",
        r"odd/a\*b",
        r"odd/\[x]",
        "nowhere/*",
        "etc/a.conf/*",
        "*.none",
    ],
)
def test_it_expands_like_bash(rootfs: Rootfs, extracted: Path, pattern: str) -> None:
    expected = sorted(by_bash(extracted, pattern.encode()))
    if not expected:
        with pytest.raises(NotFoundError, match="no file in the image matches"):
            expand(rootfs, [pattern.encode()])
        return
    assert sorted(expand(rootfs, [pattern.encode()])) == expected
    assert expand(rootfs, [b"/" + pattern.encode()]) == [
        b"/" + path for path in expand(rootfs, [pattern.encode()])
    ]  # every path is below the root


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"odd/[x]", [b"odd/[x]"]),
        (b"odd/a*b", [b"odd/a*b"]),
        (b"/odd/back\\slash", [b"/odd/back\\slash"]),
        (b"no/such/file", [b"no/such/file"]),
        (b"etc/**", [
            b"etc/a.conf", b"etc/b.conf", b"etc/conf.d", b"etc/dangling.conf", b"etc/link.conf",
            b"etc/conf.d/c.conf", b"etc/conf.d/deep", b"etc/conf.d/deep/deeper", b"etc/conf.d/deep/deeper/f.conf",
        ]),
    ],
)  # fmt: skip
def test_a_path_that_exists_or_has_no_pattern_is_itself(rootfs: Rootfs, path: bytes, expected: list[bytes]) -> None:
    assert expand(rootfs, [path]) == expected


def test_several_patterns_keep_their_order(rootfs: Rootfs) -> None:
    assert expand(rootfs, [b"odd/x*", b"/etc", b"etc/[ab]*"]) == [b"odd/x", b"/etc", b"etc/a.conf", b"etc/b.conf"]
