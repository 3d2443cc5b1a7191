"""An image of this machine's Python from literals, with large files in its layers that no program reads."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.images import Image, Json, Layer
from tests.tars import directory, file, symlink, tar

PRINT = ("/usr/bin/python3", "-c", "print(42)")
"""A command that prints 42."""
_PYTHON = Path("/usr/bin/python3")
_MODULES = ("*.py", "encodings/*.py", "collections/*.py", "importlib/*.py", "re/*.py")
_BALLAST = 3_000_000
"""Bytes of a file that no program reads."""


@cache
def _python() -> bytes:
    """Return the entries of this machine's Python in a tar; skip the test if there is none."""
    if not _PYTHON.exists() or shutil.which("ldd") is None:
        pytest.skip("there is no /usr/bin/python3 to make an image of")
    printed = subprocess.run(["ldd", _PYTHON], capture_output=True, text=True, check=True).stdout
    libraries = [Path(each) for each in re.findall(r"(/\S+) \(0x", printed)]
    real = _PYTHON.resolve()
    library = Path("/usr/lib") / real.name
    chosen = [path for pattern in _MODULES for path in sorted(library.glob(pattern))]
    names = {str(path): path.read_bytes() for path in [real, *libraries, *chosen]}
    names[str(library / "lib-dynload" / "none")] = b""
    parents = {str(parent) for name in names for parent in Path(name).parents if str(parent) != "/"}
    entries = [directory(os.fsencode(f".{each}/")) for each in sorted(parents)]
    entries += [file(os.fsencode(f".{name}"), data, mode=0o755) for name, data in names.items()]
    return b"".join([*entries, symlink(b"./usr/bin/python3", os.fsencode(real.name))])


def python_image(*above: Layer, tag: str = "1", config: Json | None = None) -> Image:
    """Return an image with Python, and files that no program reads, below other layers; they are others each time."""
    ballast = [file(b"./ballast%d" % number, os.urandom(_BALLAST)) for number in range(2)]
    layers = (Layer(tar([ballast[0], _python()])), Layer(tar([ballast[1]])))
    return Image((*layers, *above), tag=tag, config=config or {})
