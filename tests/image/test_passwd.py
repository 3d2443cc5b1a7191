from pathlib import Path

import pytest

from ocifs import open_image
from ocifs.image.passwd import Accounts
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, header, symlink, tar


@pytest.mark.parametrize(
    ("members", "passwd"),
    [
        ([file(b"etc/passwd", b"own")], b"own"),
        ([symlink(b"etc/passwd", b"../../../../usr/lib/passwd"), file(b"usr/lib/passwd", b"own")], b"own"),
        ([symlink(b"etc", b"/usr/etc"), file(b"usr/etc/passwd", b"own")], b"own"),
        ([symlink(b"etc/passwd", b"/proc/self/environ")], b""),
        ([symlink(b"etc/passwd", b"passwd")], b""),
        ([directory(b"etc/passwd")], b""),
        ([header(b"etc/passwd", flag=b"6")], b""),
        ([header(b"etc/passwd", flag=b"3", major=1, minor=5)], b""),
        ([], b""),
    ],
)
def test_the_files_are_the_image_s_own_wherever_its_links_lead(
    tmp_path: Path, members: list[bytes], passwd: bytes
) -> None:
    with open_image(write_layout(tmp_path / "image", Image((Layer(tar(members)),)))) as image:
        assert Accounts.of(image.rootfs) == Accounts(passwd, b"")
