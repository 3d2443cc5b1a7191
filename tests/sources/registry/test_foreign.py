"""Foreign layers: from where the image says, if the user says so, and never from where only we can reach."""

import ctypes
import fcntl
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ocifs.blobs.caching_source import CachingSource
from ocifs.errors import InvalidImageError, NotFoundError, RegistryError
from ocifs.image.opening import open_image
from ocifs.options import Options
from ocifs.sources.reference import parse_reference
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.foreign import foreign_peers, is_public
from ocifs.sources.registry.source import open_origins, open_registry
from ocifs.sources.registry.timeouts import DEFAULT_TIMEOUTS, Timeouts
from ocifs.sources.resolve import resolve_image
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.images import Image, Layer, layout_files, tar
from tests.registry import SECRET, Registry, make_certificate, redirect, running, status, wrong_bytes

LAYER = Layer(tar({"foreign": b"from afar\n" * 1000}))
BLOB = str(Digest.of(LAYER.blob))
TYPE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
ALLOWED = Access(
    allow_foreign_urls=True, credentials="me:s3cr3t-password", timeouts=Timeouts(first_operation=0.1, pause=0.01)
)
PUBLIC = "9.9.9.9"

_CLONE_NEWNET = 0x40000000  # sched.h
_SIOCSIFFLAGS, _SIOCSIFADDR, _IFF_UP = 0x8914, 0x8916, 1  # linux/sockios.h, linux/if.h


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::1", False),
        ("2001:0:5ef5:79fd::1", False),
    ],
)
def test_is_public(address: str, public: bool) -> None:
    assert is_public(address) == public


def test_urls_that_may_be_asked() -> None:
    urls = [
        "http://plain.example/a",
        "ftp://x.example/a",
        "file:///etc/passwd",
        "https:///a",
        "https://me:pw@x.example/a",
        "https://[::1/a",
        "https://x.example:99999/a",
        "",
        f"https://x.example/a?signature={SECRET}",
    ]
    (peer,) = foreign_peers(urls, DEFAULT_TIMEOUTS)
    assert (peer.host, peer.url) == ("x.example", urls[-1])
    assert SECRET not in str(peer)
    assert len(foreign_peers([urls[-1]] * 100, DEFAULT_TIMEOUTS)) == 8


@pytest.fixture
def network(root: None) -> Iterator[str]:
    """Enter a network namespace in which this machine has a public address; return that address.

    Only this thread and those that it starts are in the namespace.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        if libc.unshare(_CLONE_NEWNET) != 0:
            pytest.skip("no network namespaces here")
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                _set_address(control, b"lo", "127.0.0.1")
                _set_address(control, b"lo:1", PUBLIC)
            yield PUBLIC
        finally:
            assert libc.setns(before.fileno(), _CLONE_NEWNET) == 0


def _set_address(control: socket.socket, interface: bytes, address: str) -> None:
    """Set the address of an interface, and bring it up (netdevice(7))."""
    name = struct.pack("16s", interface)
    fcntl.ioctl(control, _SIOCSIFADDR, name + struct.pack("HH4s16x", socket.AF_INET, 0, socket.inet_aton(address)))
    fcntl.ioctl(control, _SIOCSIFFLAGS, name + struct.pack("H22x", _IFF_UP))


@pytest.fixture
def registry(network: str, registry: Registry) -> Registry:
    """Run the registry in the namespace."""
    return registry


@pytest.fixture
def afar(tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A server at the public address, with a certificate, that has the layer."""
    ca = make_certificate(tmp_path, "ca")
    server = make_certificate(tmp_path, "server", ca, of=f"IP:{network},IP:127.0.0.1,DNS:localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server, server.with_suffix(".key"))
    with running(context, network) as afar:
        afar.blobs["x"] = {BLOB: LAYER.blob}
        yield afar


def image_from(registry: Registry, base: str) -> str:
    """Return an image whose layer is at `base`, not in the registry."""
    url = f"{base}/v2/x/blobs/{BLOB}?signature={SECRET}"
    descriptor: dict[str, Any] = {"mediaType": TYPE, "urls": ["http://127.0.0.1:1/", url]}
    image = registry.add("app", layout_files(Image((Layer(LAYER.tar, descriptor=descriptor),))))
    del registry.blobs["app"][BLOB]
    return image


@pytest.fixture
def image(registry: Registry, afar: Registry) -> str:
    return image_from(registry, afar.base)


def content(image: str, access: Access, tmp_path: Path) -> bytes:
    with open_image(image, Options(store=Store(tmp_path / "cache"), access=access)) as opened:
        return opened.rootfs.open("/foreign").read(10)


def test_urls_are_followed_only_if_the_user_says_so(
    image: str, registry: Registry, afar: Registry, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="a foreign layer: --allow-foreign-urls fetches it from where the image"):
        content(image, Access(), tmp_path)
    assert not afar.requests
    assert content(image, ALLOWED, tmp_path) == b"from afar\n"
    (asked,) = afar.requests
    assert SECRET in asked.path
    assert not {"authorization", "cookie"} & asked.headers.keys()


def test_the_registry_comes_first(image: str, registry: Registry, afar: Registry, tmp_path: Path) -> None:
    registry.blobs["app"][BLOB] = LAYER.blob
    assert content(image, ALLOWED, tmp_path) == b"from afar\n"
    assert not afar.requests


def test_another_process_asks_there_too(image: str, afar: Registry) -> None:
    reference = parse_reference(image)
    with closing(open_registry(reference, ALLOWED)) as source:
        (layer,) = resolve_image(CachingSource(source, Store(None)), reference).layers
        remote = source.open(layer.descriptor)
        (opened,) = open_origins([remote.origin()])
        assert opened().pread(20, 50) == LAYER.blob[50:70]
    assert afar.requests[-1].range == "bytes=50-69"


def at_home(afar: Registry, name: str = "127.0.0.1") -> str:
    """Return the URL of the same server at an address that is not public."""
    return afar.base.replace(PUBLIC, name)


def test_a_private_address_is_refused(registry: Registry, afar: Registry, tmp_path: Path) -> None:
    image = image_from(registry, at_home(afar))
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1, which the image names, has no public address: refused"):
        content(image, ALLOWED, tmp_path)
    assert not afar.requests


def test_a_redirect_to_a_private_address_is_refused(image: str, afar: Registry, tmp_path: Path) -> None:
    afar.fault(redirect(at_home(afar, "localhost") + "/v2/x/secret"), times=1)
    with pytest.raises(RegistryError, match="localhost, which the image names, has no public address: refused"):
        content(image, ALLOWED, tmp_path)
    assert len(afar.requests) == 1


def test_nor_without_encryption(image: str, registry: Registry, afar: Registry, tmp_path: Path) -> None:
    afar.fault(redirect(registry.base + "{path}"))
    registry.requests.clear()
    with pytest.raises(RegistryError, match="without encryption: refused"):
        content(image, ALLOWED, tmp_path)
    assert not [request for request in registry.requests if SECRET in request.path]


def test_nor_by_a_proxy(image: str, afar: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as proxy:
        monkeypatch.setenv("https_proxy", proxy.base)
        assert content(image, ALLOWED, tmp_path) == b"from afar\n"
    assert not proxy.requests


def test_what_goes_wrong_there(image: str, afar: Registry, tmp_path: Path) -> None:
    afar.fault(wrong_bytes)
    with pytest.raises(InvalidImageError):
        content(image, ALLOWED, tmp_path)
    afar.faults.clear()
    afar.fault(status(403))
    with pytest.raises(RegistryError, match="status 403") as caught:
        content(image, ALLOWED, tmp_path)
    assert SECRET not in str(caught.value)
    afar.faults.clear()
    assert content(image, ALLOWED, tmp_path) == b"from afar\n"
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file() and not path.name.startswith("blob1"):  # a blob is the manifest, with its URL
            assert b"s3cr3t" not in path.read_bytes()
