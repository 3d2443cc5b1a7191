"""From a reference to a rootfs: what is checked, what is built once, and what is closed."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError, LimitError, NotFoundError, OcifsError
from ocifs.image.opening import open_image
from ocifs.limits import Limits
from ocifs.options import Options
from ocifs.store import Store
from tests import tars
from tests.images import Image, Layer, blob_path, digest, layout_files, tar, write_directory, write_layout

BASE = Layer(tar({"a": b"base", "b": b"kept"}))
UPPER = Layer(tars.tar([tars.file(b".wh.a"), tars.file(b"c", b"new")]))


def open_fds() -> set[str]:
    return {
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    }


def names(image: Path, options: Options | None = None) -> list[bytes]:
    with open_image(str(image), options) as opened:
        return [path for path, _ in opened.rootfs.walk()]


def test_layers_are_merged(tmp_path: Path) -> None:
    image = write_layout(tmp_path / "image", Image((BASE, UPPER)))
    assert names(image) == [b"", b"b", b"c"]


def test_an_image_without_layers_is_an_empty_tree(tmp_path: Path) -> None:
    assert names(write_layout(tmp_path / "image", Image(()))) == [b""]


def test_a_layer_that_is_listed_twice_is_applied_twice(tmp_path: Path) -> None:
    image = write_layout(tmp_path / "image", Image((BASE, UPPER, BASE)))
    assert names(image) == [b"", b"a", b"b", b"c"]


def test_layers_are_applied_in_their_order_whichever_is_indexed_first(tmp_path: Path) -> None:
    whiteout = tars.file(b".wh.a")
    sizes = [1, 900_000, 10, 500_000, 100, 2_000_000]
    layers = []
    for number, size in enumerate(sizes):
        rest = tars.file(b"rest", os.urandom(size))
        layers += [Layer(tars.tar([rest, whiteout])), Layer(tars.tar([tars.file(b"a", b"%d" % number)]), "zstd")]
    for count in range(1, len(layers) + 1):
        image = write_layout(tmp_path / f"image{count}", Image(tuple(layers[:count])))
        with open_image(str(image)) as opened:
            if count % 2:
                assert opened.rootfs.tree.lookup(opened.rootfs.root, b"a") is None
            else:
                assert opened.rootfs.open("a").read() == b"%d" % (count // 2 - 1)


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_a_document_of_a_gigabyte_is_not_read(tmp_path: Path, name: str) -> None:
    image = write_layout(tmp_path / "image", Image((BASE,)))
    os.truncate(image / name, 1 << 30)
    with pytest.raises(LimitError, match=f"{name} has 1073741824 bytes: over the limit document=4MiB"):
        open_image(str(image))


@pytest.mark.parametrize("compression", ["tar", "gzip", "zstd"])
def test_the_tree_does_not_depend_on_the_compression(tmp_path: Path, compression: str) -> None:
    layer = Layer(tar({"file": os.urandom(3 << 20)}), compression)  # type: ignore[arg-type]
    with open_image(str(write_layout(tmp_path / "image", Image((layer,))))) as opened:
        content = opened.rootfs.open("file").read()
    assert hashlib.sha256(content).digest() == hashlib.sha256(layer.tar[512 : 512 + (3 << 20)]).digest()


def test_the_second_time_nothing_is_read_again(tmp_path: Path) -> None:
    image = write_layout(tmp_path / "image", Image((BASE, UPPER)))
    seen: list[str] = []

    def options() -> Options:
        return Options(store=Store(tmp_path / "cache"), progress=lambda layer, done, total: seen.append(layer))

    first = names(image, options())
    assert set(seen) == {digest(BASE.blob), digest(UPPER.blob)}
    seen.clear()
    assert names(image, options()) == first
    assert not seen


def test_a_store_of_damaged_entries_is_built_anew(tmp_path: Path) -> None:
    image = write_layout(tmp_path / "image", Image((BASE, UPPER)))
    expected = names(image, Options(store=Store(tmp_path / "cache")))
    for entry in (tmp_path / "cache" / "entries").iterdir():
        data = bytearray(entry.read_bytes())
        data[len(data) // 2] ^= 1
        entry.write_bytes(data)
    assert names(image, Options(store=Store(tmp_path / "cache"))) == expected


WRONG: list[tuple[str, Image, type[OcifsError], str]] = [
    ("diff ID", Image((Layer(diff_id=digest(b"other")),)), InvalidImageError, "image config says"),
    (
        "one of three",
        Image((BASE, Layer(UPPER.tar, diff_id=digest(b"other")), UPPER)),
        InvalidImageError,
        "config says",
    ),
    ("size", Image((Layer(descriptor={"size": 5}),)), InvalidImageError, "bytes"),
    ("not a tar", Image((Layer(b"no tar" * 200),)), InvalidImageError, "layer sha256:"),
    (
        "hard link to nothing",
        Image((Layer(tars.tar([tars.hardlink(b"a", b"nowhere")])),)),
        InvalidImageError,
        "nowhere",
    ),
]


@pytest.mark.parametrize(("image", "error", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_what_is_wrong_is_said_and_nothing_stays_open(
    tmp_path: Path, image: Image, error: type[OcifsError], message: str
) -> None:
    layout = write_layout(tmp_path / "image", image)
    before = open_fds()
    with pytest.raises(error, match=message):
        open_image(str(layout))
    assert open_fds() == before


def test_a_damaged_blob_is_refused(tmp_path: Path) -> None:
    files = layout_files(Image((BASE,)))
    path = blob_path(digest(BASE.blob))
    files[path] = files[path][:-8] + bytes(8)  # the CRC of the gzip member, which no tar shows
    with pytest.raises(InvalidImageError, match=digest(BASE.blob)):
        open_image(str(write_directory(tmp_path / "image", files)))


def test_a_missing_blob_is_named(tmp_path: Path) -> None:
    files = layout_files(Image((BASE,)))
    del files[blob_path(digest(BASE.blob))]
    with pytest.raises(NotFoundError, match=digest(BASE.blob).partition(":")[2]):
        open_image(str(write_directory(tmp_path / "image", files)))


def test_a_layer_over_the_limit_is_refused(tmp_path: Path) -> None:
    image = write_layout(tmp_path / "image", Image((BASE,)))
    with pytest.raises(LimitError, match="inflates"):
        open_image(str(image), Options(limits=Limits(uncompressed=1024)))


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    layer = Layer(tar({"zeros": bytes(8 << 20)}), "zstd")
    image = write_layout(tmp_path / "image", Image((layer,)))
    with pytest.raises(LimitError, match="times its size"):
        open_image(str(image), Options(limits=Limits(ratio_from=1 << 20)))


def test_closing_closes_everything(tmp_path: Path) -> None:
    image = write_layout(tmp_path / "image", Image((BASE, UPPER)))
    before = open_fds()
    with open_image(str(image)) as opened:
        opened.rootfs.open("b").read()
    assert open_fds() == before


def test_warnings_do_not_come_without_end(tmp_path: Path) -> None:
    twice = Layer(tars.tar([tars.file(b"same")] * 1000))
    warnings: list[str] = []
    image = write_layout(tmp_path / "image", Image((twice,)))
    with open_image(str(image), Options(warn=warnings.append)):
        assert len(warnings) == 101
    assert warnings[-1] == "further warnings like these are omitted"


_IN_THREADS = """
import sys, threading, time, typing
import msgspec._utils as learning
from ocifs.image.opening import open_image

def slowly(call):
    def wait_and_call(*arguments):
        time.sleep(0.002)
        return call(*arguments)
    return wait_and_call

# Where msgspec calls Python while it learns a type.
typing._BaseGenericAlias.__setattr__ = slowly(typing._BaseGenericAlias.__setattr__)
learning._get_class_mro_and_typevar_mappings = slowly(learning._get_class_mro_and_typevar_mappings)

together = threading.Barrier(6)
found = []

def look():
    together.wait()
    with open_image(sys.argv[1]) as image:
        found.append([entry.path for index in image.indexes for entry in index.toc()])

threads = [threading.Thread(target=look) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == [[b"a", b"b"]] * 6, found
"""


def test_opened_for_the_first_time_in_several_threads_at_once(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", Image((Layer(tar({"a": b""})), Layer(tar({"b": b""}), "zstd"))))
    for _ in range(3):
        subprocess.run([sys.executable, "-c", _IN_THREADS, layout], check=True, timeout=60)
