"""Images with names that shells find hard, some of them indexed."""

import sys
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_docker_archive, write_layout, write_oci_archive
from tests.tars import directory, file, symlink, tar

_HARD = [
    b"with space",
    b"dollar$(touch PWNED)",
    b"back`touch PWNED`tick",
    b"quo'te",
    b'dou"ble',
    b"semi;colon",
    b"caf\xc3\xa9",
    b"colon:x",
    b"equals=x",
    b"bang!x",
]
_LEFT_OUT = [b"new\nline", b"red\x1b[31m", b"latin\xe9", b"tab\tx"]
_MEMBERS = [
    directory(b"etc/"),
    file(b"etc/passwd", b"root"),
    file(b"etc/.hidden", b""),
    directory(b"etc/ssl/"),
    symlink(b"etc/tls", b"ssl"),
    directory(b"unique/"),
    file(b"unique/one", b""),
    directory(b"hard/"),
    *(file(b"hard/" + name, b"") for name in _HARD + _LEFT_OUT),
    directory(b"many/"),
    *(file(b"many/file%05d" % number, b"") for number in range(3000)),
    file(b"many/other", b""),
]
_HISTORY: dict[str, object] = {
    "history": [{"created_by": "COPY everything /\x1b[31m"}, {"created_by": "ENV x=1", "empty_layer": True}]
}
_IMAGE = Layer(tar(_MEMBERS))
_EMPTY = Layer(tar([file(b"x", b"")]))


@pytest.fixture(scope="session")
def place(session_ocifs: Ocifs) -> Path:
    """The working directory, with a home directory in it and `ocifs` in `bin`."""
    place = session_ocifs.home / "place"
    images = (Image(layers=(_IMAGE,), config=_HISTORY), Image(layers=(_IMAGE, _EMPTY), tag="lab"))
    write_layout(place / "image", *images)
    write_layout(place / "my image", images[0])
    write_layout(place / "home/himage", images[0])
    write_layout(place / "cold", Image(layers=(_EMPTY, Layer(tar([file(b"unique", b"")])))))
    write_oci_archive(place / "single.tar", Image(layers=(_IMAGE,), tag="v1"))
    write_docker_archive(place / "saved.tar", (Image(layers=(_IMAGE,)), ["team/app:1.2", "team/app:1.3"]))
    for name in ("plain.txt", "two words.txt", "a:b.txt", "$money.txt"):
        (place / name).write_text("")
    for tag in ("latest", "lab"):
        session_ocifs.output("index", f"{place}/image:{tag}")
    (place / "bin").mkdir()
    (place / "bin/ocifs").write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'from ocifs.cli.main import main; main()' \"$@\"\n"
    )
    (place / "bin/ocifs").chmod(0o755)
    return place
