"""eStargz and zstd:chunked as other programs write them: skopeo, and ctr-remote by a containerd of the test's own."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.cli.docker_registry import docker_registry, push
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, hardlink, header, pax, symlink, tar

NOISE = os.urandom(5_000_000)
TAR = tar(
    [
        directory(b"./", mtime=5),
        directory(b"etc/", uid=1, gid=2, mtime=6),
        file(b"etc/motd", b"hello\n", mode=0o4755, mtime=1_700_000_000),
        file(b"noise", NOISE),
        file(b"holes", b"begin" + bytes(300_000) + b"end"),
        file(b"empty"),
        pax({b"SCHILY.xattr.user.x": b"value"}) + file(b"attributed", b"a"),
        hardlink(b"again", b"noise"),
        symlink(b"way", b"etc/motd"),
        header(b"null", flag=b"3", major=1, minor=3),
        header(b"pipe", flag=b"6", mode=0o600),
        file(b"\xc3\xbcmlaut", b"u"),
    ]
)
LOST = {
    b"SCHILY.xattr.user.overlay.origin": b"",
    b"SCHILY.xattr.user.empty": b"",
    b"LIBARCHIVE.xattr.user.libarchive": b"MQ",
}
"""Extended attributes that Go's archive/tar drops."""
IMAGE = Image(
    (
        Layer(TAR),
        Layer(tar([])),
        Layer(tar([file(b"etc/.wh.motd"), file(b"upper", NOISE[:1000])])),
    )
)
_CONTAINERD = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{directory}/socket"
"""

Push = Callable[[Path, str, str], None]


def by_skopeo(directory: Path, host: str, name: str) -> None:
    push(f"oci:{directory}/image:latest", host, name, "--dest-compress-format", "zstd:chunked")


def by_ctr_remote(*options: str) -> Push:
    def convert(directory: Path, host: str, name: str) -> None:
        for program in ("containerd", "ctr-remote"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is missing")
        if os.geteuid():
            pytest.skip("containerd needs root")
        archive = f"oci-archive:{directory}/image.tar:example.test/app:1"
        subprocess.run(
            ["skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{directory}/image:latest", archive], check=True
        )
        config = directory / "containerd.toml"
        config.write_text(_CONTAINERD.format(directory=directory))
        ctr = ["ctr-remote", "--address", f"{directory}/socket", "images"]
        with subprocess.Popen(["containerd", "--config", config], stderr=subprocess.DEVNULL) as process:
            try:
                deadline = time.monotonic() + 20
                while _run([*ctr, "ls"]) and time.monotonic() < deadline:
                    time.sleep(0.1)
                steps = (
                    ["import", "--no-unpack", "--all-platforms", f"{directory}/image.tar"],
                    ["convert", "--oci", *options, "example.test/app:1", f"{host}/{name}"],
                    ["push", "--plain-http", f"{host}/{name}"],
                )
                for step in steps:
                    assert not _run([*ctr, *step]), step
            finally:
                process.terminate()

    return convert


LANDMARK, TOC = "added    /.no.prefetch.landmark\n", "added    /stargz.index.json\n"
"""Files that a writer adds to the tar."""


def _run(command: list[str]) -> int:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode


MADE_BY: dict[str, tuple[Push, str, str]] = {
    "skopeo": (by_skopeo, "zstd:chunked", ""),
    "ctr-remote, eStargz": (by_ctr_remote("--estargz"), "estargz", LANDMARK + TOC),
    "ctr-remote, small chunks": (
        by_ctr_remote("--estargz", "--estargz-chunk-size", "65536"),
        "estargz",
        LANDMARK + TOC,
    ),
    "ctr-remote, zstd:chunked": (by_ctr_remote("--zstdchunked"), "zstd:chunked", LANDMARK),
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.mark.parametrize(("make", "form", "added"), MADE_BY.values(), ids=MADE_BY)
def test_the_tree_is_the_one_that_was_converted(
    ocifs: Ocifs, host: str, tmp_path: Path, make: Push, form: str, added: str
) -> None:
    write_layout(tmp_path / "image", IMAGE)
    name = f"app:{len(list(tmp_path.parent.iterdir()))}"
    make(tmp_path, host, name)
    image = f"docker://{host}/{name}"
    offers = json.loads(ocifs.output("index", "ls", "--json", image))
    assert [(offer["format"], offer["bound"]) for offer in offers] == [(form, True)] * 3
    assert f"{form}  in the layers  3 layers" in ocifs.output("index", "ls", image)
    compared = ocifs.run("diff", str(tmp_path / "image"), image)
    assert (compared.code, compared.text, compared.err) == (int(bool(added)), added, "")
    kinds = {path.name.partition("-")[0] for path in ocifs.cache.glob("entries/*")}
    assert "converted1" in kinds
    for command in ("ls", "verify", "ls"):  # the second time all is in the cache
        assert ocifs.run(command, "--toc", "verify", image).code == 0
    assert ocifs.output("cache", "clear")
    assert ocifs.output("index", "push", image).startswith("ocifs  ")
    assert len(list(ocifs.cache.glob("entries/layer2-*"))) == 3  # what is published is of the tar
    assert ocifs.output("index", "ls", image).startswith("ocifs  ")


@pytest.mark.parametrize("make", [by_skopeo, by_ctr_remote("--estargz"), by_ctr_remote("--zstdchunked")])
def test_what_the_writer_loses_is_no_lie(ocifs: Ocifs, host: str, tmp_path: Path, make: Push) -> None:
    write_layout(tmp_path / "image", Image((Layer(tar([pax(LOST) + file(b"f", b"content", mtime=7)])),)))
    name = f"lost:{len(list(tmp_path.parent.iterdir()))}"
    make(tmp_path, host, name)
    image = f"docker://{host}/{name}"
    assert ocifs.output("cat", image, "/f") == "content"
    for command in ("ls", "verify", "ls"):
        result = ocifs.run(command, "--toc", "verify", image)
        assert (result.code, result.err) == (0, "")
