"""Archives on a web server: read in place by ranges, downloaded once if that is not possible, never mixed."""

import gzip
import lzma
import random
import ssl
from pathlib import Path

import pytest
import zstandard

from ocifs.errors import InvalidImageError, LimitError, NotFoundError, OcifsError, RegistryError, UnsupportedError
from ocifs.image.opening import open_image
from ocifs.limits import Limits
from ocifs.options import Options
from ocifs.sources.registry.access import Access
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.images import Image, Layer, digest, docker_files, layout_files, tar
from tests.registry import (
    HASTY,
    SECRET,
    Act,
    Blob,
    Handler,
    Registry,
    basic,
    chunked,
    cut,
    hang_up,
    make_certificate,
    other_range,
    redirect,
    running,
    shorter,
    status,
    whole,
    wrong_bytes,
)
from tests.waiting import wait_for

pytestmark = pytest.mark.usefixtures("alone")

NOISE = random.Random(1).randbytes(3 << 20)
ONE = Image((Layer(tar({"a": NOISE, "b": b"base"}), "tar"), Layer(tar({"b": b"one"}))), tag="app:1")
TWO = Image((Layer(tar({"a": NOISE, "b": b"base"}), "tar"), Layer(tar({"b": b"two"}), "zstd")), tag="app:2")
LAYOUT = tar(dict(layout_files(ONE, TWO)))
SAVED = tar(dict(docker_files((ONE, ["app:1"]), (TWO, ["app:2"]))))
TAGGED = (("ETag", '"1"'),)
DATED = (("Last-Modified", "Mon, 30 Nov 2026 07:00:00 GMT"),)

FAST = Access(timeouts=HASTY)


def serve(registry: Registry, data: bytes, headers: tuple[tuple[str, str], ...] = TAGGED) -> str:
    registry.files["/a.tar"] = Blob(data, headers=headers)
    return f"{registry.base}/a.tar"


def read(reference: str, store: Store, path: str = "/b", **options: object) -> bytes:
    with open_image(reference, Options(store=store, **{"access": FAST, **options})) as image:  # type: ignore[arg-type]
        return image.rootfs.open(path).read()


def ranges(registry: Registry) -> list[tuple[int, int]]:
    """Return the ranges that were requested, and forget them."""
    found = [request.range.removeprefix("bytes=").split("-") for request in registry.requests]
    registry.requests.clear()
    return [(int(first), int(last)) for first, last in found]


@pytest.mark.parametrize("data", [LAYOUT, SAVED], ids=["oci-archive", "docker-archive"])
@pytest.mark.parametrize("headers", [TAGGED, DATED, ()], ids=["etag", "date", "no version"])
def test_it_is_read_in_place(
    registry: Registry, store: Store, tmp_path: Path, data: bytes, headers: tuple[tuple[str, str], ...]
) -> None:
    url = serve(registry, data, headers)
    assert read(f"{url}:2", store) == b"two"
    assert read(f"{url}:app:2", store, "/a") == NOISE
    ranges(registry)
    for path in (tmp_path / "cache/entries").glob("blob*"):
        path.unlink()
    assert read(f"{url}:app:2", store) == b"two"  # its indexes are known: only the span is fetched
    assert sum(last + 1 - first for first, last in ranges(registry)) < 1 << 20


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("data", [LAYOUT, SAVED], ids=["oci-archive", "docker-archive"])
def test_a_compressed_archive_is_downloaded_once(registry: Registry, store: Store, compress, data: bytes) -> None:  # type: ignore[no-untyped-def]
    url = serve(registry, compress(data))
    told: list[tuple[int, int]] = []
    options = Options(store=store, access=FAST, downloading=lambda blob, done, total: told.append((done, total)))
    with open_image(f"{url}:2", options) as image:
        assert image.rootfs.open("/b").read() == b"two"
    assert told[-1] == (len(compress(data)),) * 2
    registry.requests.clear()
    assert read(f"{url}:1", store) == b"one"
    assert ranges(registry) == [(0, 65535)]


@pytest.mark.parametrize(
    ("data", "names_digest"),
    [(LAYOUT, True), (gzip.compress(LAYOUT), True), (SAVED, False)],
    ids=["oci-archive", "compressed oci-archive", "docker-archive"],
)
def test_a_reference_to_the_same_image_later(registry: Registry, store: Store, data: bytes, names_digest: bool) -> None:
    """An archive of `docker save` does not name images by digests, so its tag is kept."""
    url = serve(registry, data)
    with open_image(f"{url}:app:2", Options(store=store, access=FAST)) as image:
        pinned = image.source.pinned(image.reference, image.digest)
        assert pinned == (f"{url}@{image.digest}" if names_digest else f"{url}:app:2")
    assert read(pinned, store) == b"two"


@pytest.mark.parametrize(
    ("act", "headers", "requests"),
    [(whole, TAGGED, 1), (chunked, TAGGED, 2), (whole, (), 2)],
    ids=["whole", "chunked", "no version"],
)
def test_a_server_without_ranges(
    registry: Registry, store: Store, act: Act, headers: tuple[tuple[str, str], ...], requests: int
) -> None:
    """It is downloaded as a whole, once if the server names its version."""
    url = serve(registry, LAYOUT, headers)
    registry.fault(act, "/a.tar")
    warnings: list[str] = []
    assert read(f"{url}:2", store, warn=warnings.append) == b"two"
    assert "/a.tar has no range requests: downloading all of it" in warnings[0]
    registry.requests.clear()
    assert read(f"{url}:2", store) == b"two"
    assert len(registry.requests) == requests
    for act in (whole, chunked):
        registry.faults[0].act = act
        registry.files["/a.tar"] = Blob(LAYOUT, headers=(("ETag", '"2"'),))
        with pytest.raises(LimitError, match=r"over the limit spool=1MiB"):
            read(f"{url}:2", store, limits=Limits(spool=1 << 20))


def test_members_that_are_compressed_and_not_named_by_their_digests(registry: Registry, store: Store) -> None:
    renamed = {
        name.replace(digest(layer.blob)[7:], "layer"): data.replace(digest(layer.blob)[7:].encode(), b"layer")
        for layer in [ONE.layers[1]]
        for name, data in docker_files((ONE, ["app:1"])).items()
    }
    url = serve(registry, tar(dict(renamed)))
    assert read(url, store) == b"one"
    ranges(registry)
    assert read(url, store) == b"one"
    assert len(ranges(registry)) == 2  # the version, and manifest.json with the config


@pytest.mark.parametrize(
    "changed",
    [
        Blob(LAYOUT, headers=(("ETag", '"2"'),)),
        Blob(LAYOUT + bytes(512), headers=TAGGED),
        Blob(LAYOUT),
    ],
    ids=["etag", "length", "no etag"],
)
def test_a_change_while_it_is_open(registry: Registry, store: Store, tmp_path: Path, changed: Blob) -> None:
    url = serve(registry, LAYOUT)
    read(f"{url}:2", store, "/a")
    for path in (tmp_path / "cache/entries").glob("blob*"):
        path.unlink()
    with open_image(f"{url}:2", Options(store=store, access=FAST)) as image:
        registry.files["/a.tar"] = changed
        with pytest.raises(InvalidImageError, match=r"has changed .* since it was opened: run the command again"):
            image.rootfs.open("/a").read()


def test_a_change_between_two_commands(registry: Registry, store: Store) -> None:
    url = serve(registry, LAYOUT)
    assert read(f"{url}:1", store) == b"one"
    serve(registry, SAVED, (("ETag", '"2"'),))
    assert read(f"{url}:1", store) == b"one"
    with pytest.raises(NotFoundError, match="no image '3'"):
        read(f"{url}:3", store)


def test_wrong_bytes_under_the_same_version(registry: Registry, store: Store) -> None:
    url = serve(registry, LAYOUT)
    read(f"{url}:1", store)
    registry.fault(wrong_bytes, "/a.tar", after=1)
    with pytest.raises(OcifsError):
        read(f"{url}:2", store)


@pytest.mark.parametrize("act", [cut(1000), hang_up, status(503), other_range])
def test_what_is_requested_again(registry: Registry, store: Store, act: Act) -> None:
    url = serve(registry, LAYOUT)
    registry.fault(act, "/a.tar", times=1, after=2)
    assert read(f"{url}:1", store, "/a") == NOISE


def test_no_more_than_the_range_is_read(registry: Registry, store: Store) -> None:
    """The server states the right range, and sends far more, until the connection is closed."""
    closed: list[bool] = []

    def act(handler: Handler, blob: Blob) -> None:
        start, end = handler.range_of(blob)
        handler.close_connection = True
        handler.send_response(206)
        for name, value in (("Content-Range", f"bytes {start}-{end - 1}/{len(blob.data)}"), *blob.headers):
            handler.send_header(name, value)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%b\r\n" % (end - start, blob.data[start:end]))
        try:
            for _ in range(64):
                handler.wfile.write(b"%x\r\n%b\r\n" % (1 << 20, bytes(1 << 20)))
            closed.append(False)
        except OSError:
            closed.append(True)

    url = serve(registry, LAYOUT)
    registry.fault(act, "/a.tar", times=1)
    assert read(f"{url}:2", store) == b"two"
    wait_for(lambda: bool(closed))
    assert closed == [True]


@pytest.mark.parametrize(
    ("suffix", "error", "message"),
    [
        (":3", NotFoundError, r"no image '3' in http://.*/a.tar: choose one of :app:1, :app:2"),
        ("", NotFoundError, "has several images, name one"),
        (f"@{Digest.of(b'x')}", NotFoundError, "no image sha256:"),
        (":@2", NotFoundError, "no image @2"),
        ("x", NotFoundError, r"127.0.0.1:\d+ has no such file: http://.*/a.tarx$"),
        ("~3", NotFoundError, "several images"),
    ],
)
def test_images_that_the_archive_lacks(
    registry: Registry, store: Store, suffix: str, error: type[OcifsError], message: str
) -> None:
    url = serve(registry, LAYOUT)
    with pytest.raises(error, match=message):
        read(url + suffix, store)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"<html>hello", InvalidImageError, r"a.tar is not a usable archive: it is HTML$"),
        (b"", InvalidImageError, "is empty: it is not an archive of images"),
        (tar({"file": b""}), InvalidImageError, "was not written by `docker save`"),
        (lzma.compress(LAYOUT), UnsupportedError, "compressed with xz, .* download it, and decompress it with `xz -d`"),
        (LAYOUT[:300], InvalidImageError, "is not a usable archive"),
    ],
    ids=["html", "empty", "another tar", "xz", "truncated"],
)
def test_files_that_are_no_archive(
    registry: Registry, store: Store, data: bytes, error: type[OcifsError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(serve(registry, data), store)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (status(404), NotFoundError, "has no such file"),
        (status(403), RegistryError, "refuses .*: status 403: check the URL"),
        (status(401), RegistryError, "requires a login: use --creds"),
        (redirect("/a.tar"), RegistryError, "redirects more than 5 times"),
        (redirect("file:///etc/passwd"), RegistryError, "an unusable URL"),
        (status(416), InvalidImageError, "it is shorter now"),
    ],
)
def test_responses_that_end_the_command(
    registry: Registry, store: Store, act: Act, error: type[OcifsError], message: str
) -> None:
    url = serve(registry, LAYOUT)
    registry.fault(act, "/a.tar")
    with pytest.raises(error, match=message) as caught:
        read(f"{url}?sig={SECRET}:1", store)
    assert SECRET not in str(caught.value)


def test_redirects_and_credentials(registry: Registry, store: Store) -> None:
    """A file often is on another host than its URL; that host gets no credentials."""
    registry.fault(basic("me", "pass"), "/a.tar")
    url = serve(registry, LAYOUT)
    with pytest.raises(RegistryError, match="use --creds"):
        read(f"{url}:1", store)
    allowed = Access(timeouts=HASTY, credentials="me:pass")
    assert read(f"{url}:1", store, access=allowed) == b"one"
    with pytest.raises(RegistryError, match="contains credentials, which other users can see"):
        read(f"{url.replace('//', '//me:pass@')}:1", store)
    with running() as other:
        other.fault(redirect(url), "/moved")
        with pytest.raises(RegistryError, match=r"requires a login|refuses"):
            read(f"{other.base}/moved:1", store, access=allowed)
        registry.faults.clear()
        assert read(f"{other.base}/moved:1", store) == b"one"


def test_tls(store: Store, tmp_path: Path) -> None:
    ca = make_certificate(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = make_certificate(tmp_path, "server", ca)
    context.load_cert_chain(server, server.with_suffix(".key"))
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs/ca.crt").write_bytes(ca.read_bytes())
    with running(context) as registry:
        url = serve(registry, LAYOUT)
        with pytest.raises(RegistryError, match="is not trusted"):
            read(f"{url}:1", store)
        assert read(f"{url}:1", store, access=Access(tls_verify=False)) == b"one"
        assert read(f"{url}:1", store, access=Access(cert_dir=tmp_path / "certs")) == b"one"
        registry.fault(redirect("http://127.0.0.1:1/a.tar"), "/a.tar")
        with pytest.raises(RegistryError, match="without encryption: refused"):
            read(f"{url}:1", store, access=Access(tls_verify=False))


def test_a_shorter_file_than_the_headers_say(registry: Registry, store: Store) -> None:
    url = serve(registry, LAYOUT)
    registry.fault(shorter, "/a.tar", after=1)
    with pytest.raises(InvalidImageError, match="has changed"):
        read(f"{url}:1", store)
