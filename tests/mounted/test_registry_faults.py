"""What a registry can do wrong to the cold reads of a mount, one after the other: bytes that are right, or EIO."""

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ocifs.image.opening import open_image
from ocifs.indexes.artifact import make_artifact
from ocifs.options import Options
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.cli.command import Ocifs
from tests.depth import FULL, depth
from tests.images import Image, Layer, layout_files, tar
from tests.registry import (
    SECRET,
    Act,
    Registry,
    basic,
    bearer,
    cut,
    encoded,
    half_headers,
    hang_up,
    other_range,
    redirect,
    running,
    shorter,
    slowly,
    stall,
    status,
    whole,
    wrong_bytes,
)

_SIZE = 2_200_000


class Wrong(NamedTuple):
    """A fault: what happens to requests for the blob, how often, and whether the read gets its bytes."""

    act: Act | None
    """None: a redirect to another host, by a signed URL."""
    times: int
    well: bool = True
    at_store: Act | None = None
    """What goes wrong there, once."""


ALWAYS = 1_000_000
SOME = depth(1, 3)

FAULTS = {
    "401, the token has expired": Wrong(bearer("s3cr3t-new-token"), ALWAYS),
    "401, whatever is tried": Wrong(status(401, WWW_Authenticate='Basic realm="here"'), ALWAYS, well=False),
    "403": Wrong(status(403), ALWAYS, well=False),
    "404": Wrong(status(404), ALWAYS, well=False),
    "416": Wrong(status(416), ALWAYS, well=False),
    "429 with Retry-After": Wrong(status(429, Retry_After="1"), 1),
    **{str(code): Wrong(status(code), SOME) for code in (408, 425, 429, 500, 502, 503, 504)},
    "no answer": Wrong(hang_up, SOME),
    "cut at once": Wrong(cut(0), SOME),
    "cut in the middle": Wrong(cut(1000), SOME),
    "another range": Wrong(other_range, SOME),
    "206 without a range": Wrong(lambda handler, blob: handler.answer(206, blob.data[:1000]), SOME),
    "multipart": Wrong(
        lambda handler, blob: handler.answer(206, b"--x", {"Content-Type": "multipart/byteranges; boundary=x"}), SOME
    ),
    "gzip": Wrong(encoded, SOME),
    "wrong bytes": Wrong(wrong_bytes, ALWAYS, well=False),
    "another size": Wrong(shorter, ALWAYS, well=False),
    "redirect in a circle": Wrong(redirect("{path}"), ALWAYS, well=False),
    "redirect to a port that is none": Wrong(redirect("http://127.0.0.1:99999/"), ALWAYS, well=False),
    "redirect to an address that is none": Wrong(redirect("http://[::1/"), ALWAYS, well=False),
    "redirect to another protocol": Wrong(redirect("ftp://127.0.0.1/{path}"), ALWAYS, well=False),
    "redirect to another host": Wrong(None, ALWAYS),
    "403, the signed URL has expired": Wrong(None, ALWAYS, at_store=status(403)),
    "503 from where it redirects to": Wrong(None, ALWAYS, at_store=status(503)),
    "realm elsewhere": Wrong(bearer("t", "https://evil.example/token"), ALWAYS, well=False),
    "realm in the cloud": Wrong(bearer("t", "http://169.254.169.254/latest"), ALWAYS, well=False),
    **(
        {  # these take the time that they are given
            "503 for ever": Wrong(status(503), ALWAYS, well=False),
            "429 with a Retry-After of an hour": Wrong(status(429, Retry_After="3600"), ALWAYS, well=False),
            "1 byte a second": Wrong(slowly(1), 1),
            "headers that never end": Wrong(half_headers, 1, well=False),
            "no answer, no end": Wrong(stall, 1, well=False),
        }
        if FULL
        else {}
    ),
    "200": Wrong(whole, ALWAYS),  # the last: from then on all is here
}
FILES = {f"{number:02}": os.urandom(_SIZE) for number in range(len(FAULTS))}
LAYER = Layer(tar(dict(FILES)), "tar")
BLOB = f"/blobs/{Digest.of(LAYER.blob)}"


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that has an index of the image."""
    with running() as registry:
        image = registry.add("app", layout_files(Image((LAYER,))))
        with open_image(image, Options(store=Store(None))) as opened:
            artifact = make_artifact(opened.resolved, opened.indexes)
            opened.source.referrers().attach(opened.resolved.descriptor, *artifact)
        yield registry


def read(path: Path) -> bytes:
    """Read a little in the middle of a file, of a span that no reader has requested."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.seek(_SIZE // 2)
        return file.read(1000)


def told(ocifs: Ocifs, mountpoint: Path) -> Iterator[bytes]:
    """Yield everything that ocifs writes, and what other users see of its processes."""
    yield ocifs.output("mounts", "--json").encode()
    yield ocifs.output("cache", "ls", "--json").encode()
    for path in ocifs.home.rglob("*"):
        if path.is_file() and not path.is_relative_to(mountpoint):
            yield path.read_bytes()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(ocifs.home).encode() in (process / "environ").read_bytes():
                yield (process / "cmdline").read_bytes()
                yield (process / "environ").read_bytes()


def test_faults_of_a_registry(ocifs: Ocifs, registry: Registry, engine: str) -> None:
    registry.tokens = lambda request: (200, {"token": "s3cr3t-new-token"})
    registry.fault(basic("me", "s3cr3t-password"), "/manifests/")
    options = ("--engine", engine, "--no-prefetch", "--creds", "me:s3cr3t-password")
    outcomes: dict[str, bool] = {}
    with running() as store, ocifs.mounted(f"docker://{registry.host}/app", *options) as mnt:
        store.blobs = registry.blobs
        for (name, fault), file in zip(FAULTS.items(), reversed(FILES), strict=True):
            registry.requests.clear()
            registry.faults.clear()
            store.faults.clear()
            to_store = redirect(store.base + "{path}?signature=" + SECRET)
            registry.fault(fault.act or to_store, BLOB, times=fault.times)
            if fault.at_store:
                store.fault(fault.at_store, times=1)
            expected = FILES[file][_SIZE // 2 : _SIZE // 2 + 1000]
            began = time.monotonic()
            try:
                found = read(mnt / file)
            except OSError as error:
                found = os.strerror(error.errno or 0).encode()
            assert found in {expected, os.strerror(errno.EIO).encode()}, name
            outcomes[name] = found == expected
            assert registry.sent, name  # it has been asked, or this shows nothing
            assert len(registry.sent) < 20, (name, [each.range for each in registry.sent])
            waited = time.monotonic() - began
            assert waited < 45, name
            if waited > 2:  # a slow failure is cached for a second
                time.sleep(1.1)
            registry.faults.clear()
            assert read(mnt / file) == expected, name  # nothing is poisoned
        assert outcomes == {name: fault.well for name, fault in FAULTS.items()}
        assert any(SECRET in request.path for request in store.requests)
        assert not [request for request in store.requests if {"authorization", "cookie"} & request.headers.keys()]
        assert all(b"s3cr3t" not in text for text in told(ocifs, mnt))
        (mount,) = [each for each in json.loads(ocifs.output("mounts", "--json")) if each["pid"]]
        assert mount["refuted"] is None
    assert "the registry returns other bytes" in ocifs.log.read_text()
