"""Images of a Docker engine: streamed into the cache once, under their ID."""

import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from ocifs.blobs.opening import open_cached
from ocifs.errors import InvalidImageError, LimitError, NotFoundError, OcifsError, RegistryError, UnsupportedError
from ocifs.image.opening import open_image
from ocifs.limits import Limits
from ocifs.options import Options
from ocifs.sources.docker_daemon import EngineAddress
from ocifs.sources.reference import parse_reference
from ocifs.store import Store
from tests.depth import FULL
from tests.engine import Engine, Handler, running
from tests.images import Image, Layer, add_image, digest, layout_files, tar, write_docker_archive, write_oci_archive
from tests.waiting import wait_for

ONE = Image((Layer(tar({"a": random.Random(1).randbytes(300_000), "b": b"one"}), "tar"),))
TWO = Image((Layer(tar({"b": b"two"}), "tar"),))


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    with running(tmp_path / "docker.sock") as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        engine.add("app:1", ONE)
        engine.add("app:2", TWO)
        yield engine


def read(name: str, store: Store, limits: Limits | None = None) -> bytes:
    with open_image(f"docker-daemon:{name}", Options(store=store, limits=limits or Limits())) as image:
        return image.rootfs.open("/b").read()


def test_an_image_is_streamed_once(engine: Engine, store: Store) -> None:
    image_id, _ = engine.images["app:1"]
    assert read("app:1", store) == b"one"
    assert engine.requests == ["/images/app:1/json", f"/images/{image_id}/get"]
    for name in ("app:1", image_id):
        assert read(name, store) == b"one"
    assert engine.requests[2:] == ["/images/app:1/json", f"/images/{image_id}/json"]
    engine.add("app:1", TWO)
    assert read("app:1", store) == b"two"


def test_without_a_cache(engine: Engine) -> None:
    assert read("app:1", Store(None)) == b"one"


@pytest.mark.parametrize("of", ["manifest", "index"])
def test_an_engine_that_keeps_images_in_containerd(engine: Engine, store: Store, of: str) -> None:
    """Its ID is the digest of the manifest or the index, and its archive is a layout."""
    files = layout_files(ONE)
    manifest = str(add_image({}, ONE)["digest"])
    image_id = manifest
    if of == "index":
        image_id = digest(files["index.json"])
        files[f"blobs/sha256/{image_id[7:]}"] = files["index.json"]
        descriptor = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": image_id}
        files["index.json"] = b'{"schemaVersion":2,"manifests":[{"mediaType":"%b","digest":"%b","size":%d}]}' % (
            descriptor["mediaType"].encode(),
            image_id.encode(),
            len(files[f"blobs/sha256/{image_id[7:]}"]),
        )
    engine.images["app:1"] = (image_id, tar(dict(files)))
    assert read("app:1", store) == b"one"


def test_tags(engine: Engine, store: Store) -> None:
    engine.add("other:3", TWO)
    for name in ("app", "app:2"):
        with closing(open_cached(parse_reference(f"docker-daemon:{name}"), store)) as source:
            assert source.tags() == ["1", "2"]
    with (
        closing(open_cached(parse_reference("docker-daemon:none"), store)) as source,
        pytest.raises(NotFoundError, match="has no image in none"),
    ):
        source.tags()
    assert set(engine.requests) == {"/images/json"}


def refuse(handler: Handler) -> bool:
    handler.document(500, {"message": "disk \x1b[2Jfull"})
    return True


def no_json(handler: Handler) -> bool:
    handler.document(200, ["surprise"])
    return True


def odd_id(handler: Handler) -> bool:
    handler.document(200, {"Id": "sha256:../../x"})
    return True


def hang_up(handler: Handler) -> bool:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)
    return True


def no_http(handler: Handler) -> bool:
    handler.close_connection = True
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
    return True


def endless(handler: Handler) -> bool:
    handler.document(200, {"Id": "x" * (17 << 20)})
    return True


def broken(handler: Handler) -> bool:
    if not handler.path.endswith("/get"):
        return False
    handler.chunks(handler.engine.images["app:1"][1][:200_000], end=False)
    return True


def cut_off(handler: Handler) -> bool:
    """End the archive early, without an error."""
    if not handler.path.endswith("/get"):
        return False
    handler.chunks(handler.engine.images["app:1"][1][:200_000])
    return True


def another(handler: Handler) -> bool:
    if not handler.path.endswith("/get"):
        return False
    handler.chunks(handler.engine.images["app:2"][1])
    return True


def gone(handler: Handler) -> bool:
    if not handler.path.endswith("/get"):
        return False
    handler.document(404, {"message": "No such image"})
    return True


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (refuse, RegistryError, r"refuses image app:1: status 500: disk .*full$"),
        (no_json, InvalidImageError, "the engine's answer about app:1"),
        (odd_id, InvalidImageError, "malformed"),
        (hang_up, RegistryError, "cannot talk to the Docker engine at .*docker.sock"),
        (no_http, RegistryError, "its answer is malformed"),
        (endless, InvalidImageError, "more than 16777216 bytes: refused"),
        (broken, RegistryError, "stopped within image sha256:.*: its answer was cut short: try again"),
        (cut_off, InvalidImageError, "is not a usable archive"),
        (another, InvalidImageError, "sent another image than sha256:.*: try again"),
        (gone, NotFoundError, "the Docker engine has no image sha256:.*: No such image"),
    ],
)
def test_what_goes_wrong(
    engine: Engine, store: Store, answer: Callable[[Handler], bool], error: type[OcifsError], message: str
) -> None:
    """The cache keeps none of it: the next command succeeds."""
    engine.answer = answer
    with pytest.raises(error, match=message) as caught:
        read("app:1", store)
    assert str(caught.value).isprintable()
    engine.answer = lambda handler: False
    assert read("app:1", store) == b"one"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("app:3", NotFoundError, "the Docker engine has no image app:3: No such image: app:3"),
        ("../containers", NotFoundError, "cannot be the name of an image: write docker-daemon:NAME"),
        ("a/../b", NotFoundError, "cannot be the name of an image"),
        ("app?x", NotFoundError, "cannot be the name of an image"),
        ("app:1~2", NotFoundError, "the image has only 1 layer"),
    ],
)
def test_names(engine: Engine, store: Store, name: str, error: type[OcifsError], message: str) -> None:
    with pytest.raises(error, match=message):
        read(name, store)


def test_it_is_bounded(engine: Engine, store: Store) -> None:
    with pytest.raises(LimitError, match="over the limit spool=64KiB"):
        read("app:1", store, Limits(spool=64 << 10))


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("unix:///nowhere/docker.sock", RegistryError, "no Docker engine listens at /nowhere/docker.sock: start it"),
        ("tcp://127.0.0.1:1", RegistryError, "no Docker engine listens at 127.0.0.1:1"),
        ("ssh://me@host", UnsupportedError, "cannot reach, ssh://me@host: use unix:///PATH or tcp://HOST:PORT"),
        ("unix:///" + "a" * 200, RegistryError, "cannot talk to the Docker engine at .*: af_unix path too long"),
        ("unix://", UnsupportedError, "cannot reach"),
        ("tcp://a..b", RegistryError, "DOCKER_HOST names an unusable URL: its host is neither a name nor an address"),
        ("tcp://[:::]:1", RegistryError, "DOCKER_HOST names an unusable URL: its host is neither"),
        ("tcp://" + "a" * 64, RegistryError, "DOCKER_HOST names an unusable URL: its host is neither"),
        (
            "tcp://127.0.0.1:99999",
            RegistryError,
            "DOCKER_HOST names an unusable URL: port 99999 is not a number from 1",
        ),
        ("tcp://127.0.0.1:0", RegistryError, "DOCKER_HOST names an unusable URL: port 0 is not a number from 1"),
    ],
)
def test_addresses(
    store: Store, monkeypatch: pytest.MonkeyPatch, address: str, error: type[OcifsError], message: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(error, match=message):
        read("app", store)


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"])
def test_an_answer_that_never_ends(engine: Engine, begin: bytes) -> None:
    def trickle(handler: Handler) -> bool:
        handler.close_connection = True
        with suppress(OSError):
            handler.wfile.write(begin)
            while True:
                handler.wfile.write(b"H")
                time.sleep(0.02)
        return True

    engine.answer = trickle
    with pytest.raises(RegistryError, match="no answer in time"):
        EngineAddress(engine.address.removeprefix("unix://"), patience=0.3).inspect("app:1")


def test_a_forbidden_socket(user: object, engine: Engine, tmp_path: Path) -> None:
    """The command runs as a user who may not connect."""
    os.chmod(tmp_path / "docker.sock", 0o600)
    complaint = user.complaint(9, "ls", "docker-daemon:app:1", DOCKER_HOST=engine.address)  # type: ignore[attr-defined]
    assert "is forbidden: join its group (docker), run as root" in complaint


@pytest.fixture
def podman(tmp_path: Path, root: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """podman's service, with an image `localhost/app:1`."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    run = Path(tempfile.mkdtemp(prefix="ocifs"))  # podman takes up to 50 characters
    options = ["--root", str(tmp_path / "root"), "--runroot", str(run), "--tmpdir", str(run / "tmp")]
    options += ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
    archive = write_oci_archive(tmp_path / "app.tar", Image(ONE.layers, tag="localhost/app:1"))
    loaded = subprocess.run(["podman", *options, "load", "-q", "-i", archive], check=False, stderr=subprocess.PIPE)
    assert loaded.returncode == 0, loaded.stderr
    path = tmp_path / "podman.sock"
    service = subprocess.Popen(["podman", *options, "system", "service", "--time", "0", f"unix://{path}"])
    try:
        wait_for(path.exists)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        yield "app:1"
    finally:
        service.terminate()
        service.wait()
        subprocess.run(["umount", tmp_path / "root/vfs", tmp_path / "root"], check=False, capture_output=True)
        shutil.rmtree(run)


def test_podman(podman: str, store: Store) -> None:
    for name in (podman, "localhost/app:1"):
        assert read(name, store) == b"one"
    with closing(open_cached(parse_reference("docker-daemon:app"), store)) as source:
        assert source.tags() == ["1"]
    with pytest.raises(NotFoundError, match="has no image none"):
        read("none", store)


@pytest.fixture(scope="session")
def dockerd(tmp_path_factory: pytest.TempPathFactory, root: None) -> Path:
    """dockerd of this machine, or with --full that of Debian's package, which is not installed."""
    if shutil.which("containerd") is None:
        pytest.skip("containerd is missing")
    if found := shutil.which("dockerd"):
        return Path(found)
    if not FULL or shutil.which("dpkg-deb") is None:
        pytest.skip("dockerd is missing; scripts/test --full downloads Debian's")
    place = tmp_path_factory.mktemp("docker")
    place.chmod(0o777)  # apt downloads as another user
    subprocess.run(["apt-get", "-qq", "download", "docker.io"], cwd=place, check=True, capture_output=True)
    (package,) = place.glob("docker.io_*.deb")
    subprocess.run(["dpkg-deb", "-x", package, place], check=True)
    return place / "usr/sbin/dockerd"


_DOCKERD = """\
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc
exec "$@"
"""
"""Run a command that leaves nothing in /run and /etc."""


@pytest.fixture(params=["in its own storage", "in containerd"])
def docker(
    request: pytest.FixtureRequest, dockerd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The socket of a Docker engine without networks and without images."""
    settings: dict[str, object] = {"storage-driver": "vfs"}
    if request.param == "in containerd":
        version = subprocess.check_output([dockerd, "--version"], text=True)
        if int(version.partition("version ")[2].partition(".")[0]) < 24:
            pytest.skip(f"it cannot keep images in containerd: {version.strip()}")
        settings = {"storage-driver": "native", "features": {"containerd-snapshotter": True}}
    (tmp_path / "docker.json").write_text(json.dumps(settings | {"iptables": False, "bridge": "none"}))
    path = tmp_path / "docker.sock"
    names = {"data-root": "data", "exec-root": "exec", "pidfile": "pid", "config-file": "docker.json"}
    options = [f"--{option}={tmp_path / name}" for option, name in names.items()]
    command = ["unshare", "--mount", "--net", "sh", "-ec", _DOCKERD, "sh", str(dockerd), f"--host=unix://{path}"]
    with (tmp_path / "log").open("wb") as log:
        engine = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    try:
        wait_for(lambda: b"API listen on" in (tmp_path / "log").read_bytes(), 300)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        yield path
    finally:
        engine.terminate()
        engine.wait()


def test_docker(docker: Path, store: Store, tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "app.tar", (ONE, ["app:1"]))
    with closing(HTTPConnection("docker")) as client, socket.socket(socket.AF_UNIX) as client.sock:
        client.sock.connect(str(docker))
        client.request("POST", "/images/load", archive.read_bytes(), {"Content-Type": "application/x-tar"})
        answer = client.getresponse()
        assert (answer.status, b"Loaded image: app:1" in answer.read()) == (200, True)
    for name in ("app:1", "docker.io/library/app:1"):
        assert read(name, store) == b"one"
    with closing(open_cached(parse_reference("docker-daemon:app"), store)) as source:
        assert source.tags() == ["1"]
    with pytest.raises(NotFoundError, match="has no image none"):
        read("none", store)
