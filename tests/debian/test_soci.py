"""A real image and SOCI's form of an index: others can read what ocifs writes, and it is all that a mount needs."""

import datetime as dt
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from tests.cli.command import Ocifs
from tests.cli.docker_registry import docker_registry, push
from tests.debian.view import view
from tests.depth import depth
from tests.images import blob_path
from tests.indexes.ztoc import independent

_LEAST = "1KiB"


@pytest.fixture(scope="module")
def image(session_ocifs: Ocifs, debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the image in a registry, with a SOCI index beside it."""
    directory = tmp_path_factory.mktemp("registry")
    with docker_registry(directory) as host:
        push(f"oci:{debian}:latest", host, "debian:latest")
        image = f"docker://{host}/debian:latest"
        session_ocifs.output("index", "push", "--format", "soci", "--min-layer-size", _LEAST, image)
        yield image


def _blob(image: str, name: str) -> bytes:
    host, _, repository = image.removeprefix("docker://").removesuffix(":latest").partition("/")
    answer = urllib3.request("GET", f"http://{host}/v2/{repository}/blobs/{name}")
    assert answer.status == 200
    return answer.data


def test_an_independent_decoder_reads_files_by_it(session_ocifs: Ocifs, debian: Path, image: str) -> None:
    listed = json.loads(session_ocifs.output("index", "ls", "--json", image))
    assert [each["format"] for each in listed] == ["soci-v1"] * 3
    chosen = random.Random(1)
    root = debian / "bundle-latest/rootfs"
    compared = 0
    for each in listed:
        ztoc = independent.decode(_blob(image, each["digest"]))
        blob = (debian / blob_path(each["layer"])).read_bytes()
        assert ztoc["blob_size"] == len(blob)
        regular = [entry for entry in ztoc["entries"] if entry["type"] == b"reg"]
        for entry in chosen.sample(regular, min(len(regular), depth(20, 2000))):
            path = root / entry["name"].decode("utf-8", "surrogateescape")
            read = independent.read_file(blob, ztoc, entry)
            assert len(read) == entry["size"]
            if _is_still(path, entry["mtime"]):
                assert path.read_bytes() == read
                compared += 1
    assert compared > 20


def _is_still(path: Path, mtime: bytes) -> bool:
    """Whether a file is the one that an entry is of: later layers may have replaced it."""
    return path.is_file() and not path.is_symlink() and int(path.stat().st_mtime) == int(_time(mtime).timestamp())


def _time(mtime: bytes) -> dt.datetime:
    return dt.datetime.fromisoformat(mtime.decode()[:19] + "+00:00")


def test_a_mount_needs_nothing_else(ocifs: Ocifs, debian: Path, image: str, root: None) -> None:
    with ocifs.mounted(image, "--no-prefetch") as mountpoint:
        (mount,) = [each for each in json.loads(ocifs.output("mounts", "--json")) if each["pid"]]
        assert [proof["index"].split()[0] for proof in mount["layers"]] == ["soci-v1"] * 3
        entries = json.loads(ocifs.output("cache", "ls", "--json"))
        assert sum(each["size"] for each in entries if each["kind"] == "part1") < 1 << 20
        read = depth("*[c-m]", "*")  # libraries, for one, are left out
        assert view(mountpoint, read=read) ^ view(debian / "bundle-latest/rootfs", read=read) == set()
