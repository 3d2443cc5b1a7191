"""Images in podman's storage, read in place: the exact tar streams of their layers, and no file of the host."""

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ocifs.blobs.opening import open_cached
from ocifs.errors import InvalidImageError, LimitError, NotFoundError, OcifsError, UnsupportedError
from ocifs.image.opening import open_image
from ocifs.image.verification import verify_image
from ocifs.limits import Limits
from ocifs.options import Options
from ocifs.sources.reference import parse_reference
from ocifs.store import Store
from tests.cli.command import Ocifs
from tests.images import Image, Layer, digest, tar, write_oci_archive
from tests.storage import change, diff_of, layer_id, write_store
from tests.tars import directory, file, symlink
from tests.tars import tar as tar_of

NOISE = random.Random(1).randbytes(3_000_000)
BASE = tar_of(
    [directory(b"dir/"), file(b"dir/a", NOISE), symlink(b"link", b"dir"), file(b"empty"), file(b"b", b"base")]
)
ONE = Image((Layer(BASE), Layer(tar({"b": b"one"}))))
TWO = Image((Layer(BASE), Layer(tar({"b": b"two", ".wh.empty": b""}))))
THREE = Image((Layer(tar({"b": b"three"})),))


@pytest.fixture
def podman_store(tmp_path: Path) -> Path:
    return write_store(
        tmp_path / "storage",
        (ONE, ["localhost/app:1", "localhost/app:latest"]),
        (TWO, ["localhost/app:2", "quay.io/team/app:2", "docker.io/library/debian:12"]),
        (THREE, []),
    )


def reference(store: Path, name: str, driver: str = "overlay") -> str:
    return f"containers-storage:[{driver}@{store}+/run/x]{name}"


def read(text: str, cache: Store, path: str = "/b", limits: Limits | None = None) -> bytes:
    with open_image(text, Options(store=cache, limits=limits or Limits())) as image:
        return image.rootfs.open(path).read()


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_the_streams_are_exact(tmp_path: Path, store: Store, driver: str) -> None:
    place = write_store(tmp_path / "storage", (TWO, ["localhost/app:2"]), driver=driver)
    with open_image(reference(place, "app:2", driver), Options(store=store)) as image:
        assert image.rootfs.open("/dir/a").read() == NOISE
        assert [b"".join(each.stream()) for each in image.layers] == [each.tar for each in TWO.layers]
    assert all(each.problem is None for each in verify_image(reference(place, "app:2", driver), Options(store=store)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("localhost/app:1", b"one"),
        ("localhost/app", b"one"),
        ("app:1", b"one"),
        ("app", b"one"),
        ("quay.io/team/app:2", b"two"),
        ("team/app:2", b"two"),
        ("debian:12", b"two"),
        ("library/debian:12", b"two"),
        (digest(b"x")[7:], None),
        ("app:3", None),
        ("pp:1", None),
        ("none", None),
        ("debian", None),
    ],
)
def test_names(podman_store: Path, store: Store, name: str, expected: bytes | None) -> None:
    if expected is None:
        with pytest.raises(NotFoundError, match=f"no image '{name}' in .*storage; `podman images` lists them"):
            read(reference(podman_store, name), store)
    else:
        assert read(reference(podman_store, name), store) == expected


def test_ids_and_digests(podman_store: Path, store: Store) -> None:
    import json

    listed = json.loads((podman_store / "overlay-images/images.json").read_bytes())
    for prefix in ("", "@", "sha256:"):
        assert read(reference(podman_store, prefix + listed[2]["id"]), store) == b"three"
    assert read(reference(podman_store, f"team/app@{listed[1]['digest']}"), store) == b"two"
    with pytest.raises(NotFoundError, match="no image"):
        read(reference(podman_store, f"other@{listed[1]['digest']}"), store)


def test_no_store(tmp_path: Path, store: Store) -> None:
    with pytest.raises(NotFoundError, match=f"no images of podman at {tmp_path}/none: name another store"):
        read(reference(tmp_path / "none", "app"), store)


def test_a_name_of_two_images(tmp_path: Path, store: Store) -> None:
    place = write_store(tmp_path / "s", (ONE, ["a/app:1"]), (TWO, ["b/app:1"]))
    with pytest.raises(NotFoundError, match=r"'app:1' names several images in .*: a/app:1, b/app:1"):
        read(reference(place, "app:1"), store)


def test_tags(podman_store: Path, store: Store) -> None:
    with closing(open_cached(parse_reference(reference(podman_store, "app")), store)) as source:
        assert source.tags() == ["1", "2", "latest"]
    with closing(open_cached(parse_reference(reference(podman_store, "team/app:9")), store)) as source:
        assert source.tags() == ["2"]


def remove(path: str) -> Callable[[Path], None]:
    return lambda store: (store / path).unlink()


def cut(path: str, size: int) -> Callable[[Path], None]:
    return lambda store: os.truncate(store / path, size)


TOP = layer_id([BASE, ONE.layers[1].tar])
BASE_ID = layer_id([BASE])
TOP_FILE = f"overlay/{TOP}/diff/b"


def fifo(store: Path) -> None:
    (store / TOP_FILE).unlink()
    os.mkfifo(store / TOP_FILE)


def lead_out(store: Path) -> None:
    """Replace the file by a symlink to one of the host with the same bytes."""
    (store.parent / "secret").write_bytes(b"one")
    (store / TOP_FILE).unlink()
    (store / TOP_FILE).symlink_to(store.parent / "secret")


def lead_out_above(store: Path) -> None:
    """Replace a directory by a symlink to one of the host with the same file."""
    (store.parent / "outside").mkdir()
    (store.parent / "outside/a").write_bytes(NOISE)
    shutil.rmtree(store / f"overlay/{BASE_ID}/diff/dir")
    (store / f"overlay/{BASE_ID}/diff/dir").symlink_to(store.parent / "outside")


def lead_diff_out(store: Path) -> None:
    """Replace the directory of a layer by a symlink to another."""
    os.rename(store / f"overlay/{TOP}/diff", store.parent / "diff")
    (store / f"overlay/{TOP}/diff").symlink_to(store.parent / "diff")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (cut("overlay-images/images.json", 40), InvalidImageError, "overlay-images/images.json"),
        (cut("overlay-layers/layers.json", 40), InvalidImageError, "overlay-layers/layers.json"),
        (cut("overlay-images/images.json", 1 << 40), LimitError, "images.json has 1099511627776 bytes"),
        (remove("overlay-layers/layers.json"), NotFoundError, "has no overlay-layers/layers.json"),
        (lambda store: change(store / "overlay-layers/layers.json", parent=TOP), InvalidImageError, "do not end"),
        (lambda store: change(store / "overlay-layers/layers.json", id="../x"), InvalidImageError, "has no layer"),
        (
            lambda store: change(store / "overlay-images/images.json", id="../../x"),
            InvalidImageError,
            "lists the ID '../../x', which is not an ID",
        ),
        (
            lambda store: change(store / "overlay-layers/layers.json", **{"diff-digest": digest(b"")}),
            InvalidImageError,
            "other layers than its config says",
        ),
        (
            lambda store: change(store / "overlay-layers/layers.json", **{"diff-digest": ""}),
            UnsupportedError,
            "has no digest of layer",
        ),
        (remove(f"overlay-layers/{TOP}.tar-split.gz"), UnsupportedError, "no tar-split file"),
        (cut(f"overlay-layers/{TOP}.tar-split.gz", 60), InvalidImageError, "not a complete gzip file"),
        (remove(TOP_FILE), UnsupportedError, "cannot read file 'b' of the stored layer: No such file"),
        (cut(TOP_FILE, 2), InvalidImageError, "file 'b' is shorter than when the layer was stored"),
        (lambda store: (store / TOP_FILE).write_bytes(b"two") and None, InvalidImageError, "uncompressed digest is"),
        (fifo, InvalidImageError, "'b' of the stored layer is not a regular file"),
        (lead_out, UnsupportedError, "cannot read file 'b' of the stored layer: Too many levels of symbolic links"),
        (lead_out_above, UnsupportedError, "cannot read file 'dir/a' of the stored layer: No such file"),
        (lead_diff_out, InvalidImageError, "a symlink that leads out"),
    ],
)
def test_damaged_and_hostile_stores(
    podman_store: Path, store: Store, damage: Callable[[Path], None], error: type[OcifsError], message: str
) -> None:
    damage(podman_store)
    with pytest.raises(error, match=message):
        read(reference(podman_store, "app:1"), store)


def test_a_damaged_config(podman_store: Path, store: Store) -> None:
    for path in (podman_store / "overlay-images").glob("*/=*"):
        path.write_bytes(path.read_bytes().replace(b"linux", b"LINUX"))
    with pytest.raises(InvalidImageError, match=r"config sha256:.* is damaged"):
        read(reference(podman_store, "app:1"), store)


def test_a_file_that_changes_later(podman_store: Path, store: Store) -> None:
    """Each span has a digest: a changed file is an error, and never other bytes."""
    read(reference(podman_store, "app:1"), store)
    with (diff_of(podman_store, BASE_ID) / "dir/a").open("r+b") as out:
        out.write(b"changed")
    with pytest.raises(InvalidImageError, match="are not what they were when the layer was indexed"):
        read(reference(podman_store, "app:1"), store, "/dir/a")


@pytest.mark.parametrize(
    ("limits", "name"), [(Limits(uncompressed=1 << 20), "uncompressed"), (Limits(layers=1), "layers")]
)
def test_limits(podman_store: Path, store: Store, limits: Limits, name: str) -> None:
    with pytest.raises(LimitError, match=f"over the limit {name}="):
        read(reference(podman_store, "app:1"), store, limits=limits)


def test_a_mount_reads_the_store(podman_store: Path, ocifs: Ocifs, fuse: None) -> None:
    with ocifs.mounted(reference(podman_store, "app:2")) as mnt:
        assert (mnt / "dir/a").read_bytes() == NOISE
        assert (mnt / "b").read_bytes() == b"two"
        assert not (mnt / "empty").exists()


def test_a_user_who_may_not_read_a_file(user: Ocifs) -> None:
    """As in a rootless store, whose files belong to subordinate IDs."""
    place = write_store(user.home / "storage", (ONE, ["app:1"]))
    os.chmod(place / TOP_FILE, 0o600)
    assert "run the command in `podman unshare`" in user.complaint(5, "ls", reference(place, "app:1"))


@pytest.fixture(params=["overlay", "vfs"])
def podman(request: pytest.FixtureRequest, tmp_path: Path, root: None) -> Iterator[str]:
    """A store that podman has written, as a reference without a name."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    run = Path(tempfile.mkdtemp(prefix="ocifs"))  # podman takes up to 50 characters
    place = tmp_path / "root"
    options = ["--root", str(place), "--runroot", str(run), "--tmpdir", str(run / "tmp")]
    options += ["--storage-driver", request.param, "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
    archive = write_oci_archive(tmp_path / "app.tar", Image(TWO.layers, tag="localhost/app:2"))
    try:
        loaded = subprocess.run(["podman", *options, "load", "-q", "-i", archive], check=False, stderr=subprocess.PIPE)
        assert loaded.returncode == 0, loaded.stderr
        yield f"containers-storage:[{request.param}@{place}+{run}]"
    finally:
        subprocess.run(["umount", place / request.param], check=False, capture_output=True)
        shutil.rmtree(run)


def test_podman(podman: str, store: Store) -> None:
    with open_image(f"{podman}app:2", Options(store=store)) as image:
        assert image.rootfs.open("/dir/a").read() == NOISE
        assert [b"".join(each.stream()) for each in image.layers] == [each.tar for each in TWO.layers]
