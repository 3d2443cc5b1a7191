"""A machine that gives less than an image takes: of open files, of memory, of room in the cache."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.depth import depth
from tests.images import Image, Layer, write_layout
from tests.tars import file, tar

_LAYERS = 60


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """An image of many layers, each with a file of its own."""
    layers = [Layer(tar([file(b"%03d" % number, b"%d" % number)])) for number in range(_LAYERS)]
    return write_layout(tmp_path / "many", Image(layers=tuple(layers)))


def limited(ocifs: Ocifs, files: int) -> Ocifs:
    """Return the command under a limit on open files, which nobody can raise."""
    return replace(ocifs, become=("prlimit", f"--nofile={files}:{files}"))


@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_too_few_open_files_are_said_to_be_too_few(ocifs: Ocifs, many: Path, kind: str) -> None:
    image = str(many)
    if kind == "archive":
        subprocess.run(["tar", "cf", f"{many}.tar", "-C", many, "."], check=True)
        image = f"oci-archive:{many}.tar"
    mountpoint = ocifs.mountpoint()
    for files in (20, 40, 60, 80) if kind == "directory" else (20, 40):
        for verb in (["mount", image, mountpoint], ["ls", image], ["verify", image]):
            complaint = limited(ocifs, files).complaint(6, *verb)
            assert complaint.endswith(
                f"too many open files: {files} are allowed, an image takes two for each layer: "
                "raise the limit (ulimit -n)"
            )


def test_any_number_of_open_files_is_enough_or_said_to_be_too_few(ocifs: Ocifs, many: Path) -> None:
    """The daemon and the command meet the limit in different places."""
    ocifs.output("index", many)
    mountpoint = ocifs.mountpoint()
    codes = []
    for files in range(2 * _LAYERS, 2 * _LAYERS + 24, depth(3, 1)):
        result = limited(ocifs, files).run("mount", many, mountpoint)
        codes.append(result.code)
        assert result.code == 0 or "too many open files" in result.err, result
        if result.code == 0:
            assert len(os.listdir(mountpoint)) == _LAYERS
            assert (mountpoint / "007").read_bytes() == b"7"
            ocifs.output("umount", mountpoint)
        assert ocifs.leftovers() == []
    assert codes == sorted(codes, reverse=True)
    assert {codes[0], codes[-1]} == {6, 0}
