"""A published index of which a start fetches the tail only, and spans their windows: how much, and what is refused."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ocifs.blobs.download import BLOB, finish
from ocifs.cli.verbs import run
from ocifs.errors import InvalidImageError, NotFoundError
from ocifs.image.opening import Image as OpenedImage
from ocifs.image.opening import open_image
from ocifs.indexes.artifact import make_artifact
from ocifs.indexes.on_demand import TAIL_DIGEST, TAIL_SIZE
from ocifs.layer.index import LayerIndex
from ocifs.layer.index_format import KIND, join_tail
from ocifs.layer.layer import Layer as OpenedLayer
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.layer.span_cache import SpanCache
from ocifs.layer.verification import fetch_all, fetch_index, verify_blob, verify_index
from ocifs.layer.verified_mark import mark_verified
from ocifs.mount.handoff import Handoff
from ocifs.options import Options
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.images import Image, Layer, digest, layout_files, tar
from tests.indexes.windowed import BASE, DATA, SPANS, Alter, files, index, publish, ranges
from tests.registry import Blob, Handler, Registry, cut, hang_up, shorter, status, whole, wrong_bytes

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def reference(registry: Registry) -> str:
    return registry.add("app", files())


def read(image: OpenedImage, span: int) -> None:
    """Read from the middle of a span, and compare."""
    read_span(image.layers[0], span)


def read_span(layer: OpenedLayer, span: int) -> None:
    offset = layer.index.starts[span] + (100 << 10)
    assert layer.pread(1000, offset) == BASE.tar[offset : offset + 1000]


def cached(store: Store, digest: str) -> Path:
    """The file of a blob, or of a part of it."""
    assert store.directory is not None
    (found,) = store.directory.glob(f"entries/*-{digest.replace(':', '-')}*")
    return found


def part_of_index(image: OpenedImage) -> LazyBlob:
    file = image.layers[0].index.file
    assert isinstance(file, LazyBlob)
    return file


# What is fetched


def test_a_start_fetches_the_tail_and_a_span_its_windows(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    registry.requests.clear()
    with open_image(reference, Options(store=store)) as image:
        assert [path for path, _ in image.rootfs.walk()] == [b"", b"data", b"small"]
        whole_size, windows = part_of_index(image).size, image.layers[0].index.data_size
        assert ranges(registry, published) == [(windows, whole_size)]
        assert whole_size - windows < whole_size / 20
        groups = image.layers[0].index.windows.groups
        span = next(each for each in range(2, SPANS) if groups.group_of(each) == groups.group_of(each + 1))
        for each in (span + 1, span, span + 1):
            read(image, each)
        (group,) = ranges(registry, published)[1:]  # one request for neighbours
        assert group is not None
        assert group[1] - group[0] < windows / 2
        assert image.rootfs.open("/data").read() == DATA


def test_the_first_span_needs_no_window(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        assert image.layers[0].pread(100, 0) == BASE.tar[:100]
        assert len(ranges(registry, published)) == 1


def test_consecutive_spans_need_the_window_of_the_first_only(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        layer = image.layers[0]
        layer.decode_ahead(3, SPANS - 1)
        assert len(ranges(registry, published)) == 2
        read(image, SPANS - 2)


def test_the_next_process_fetches_nothing_again(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        read(image, 5)
    registry.requests.clear()
    with open_image(reference, Options(store=store)) as image:
        assert part_of_index(image)
        read(image, 5)
        assert ranges(registry, published) == []
        read(image, SPANS - 2)
        assert len(ranges(registry, published)) == 1


@pytest.mark.parametrize("alter", [lambda data, _: (data, {"vnd.ocifs.layer.digest": str(Digest.of(BASE.blob))})])
def test_an_index_without_the_annotations_is_fetched_whole(
    registry: Registry, reference: str, store: Store, alter: Alter
) -> None:
    published = publish(registry, alter)
    with open_image(reference, Options(store=store)) as image:
        assert ranges(registry, published) == [None]
        read(image, 5)
        assert image.layers[0].verification.published is not None
        assert ranges(registry, published) == [None]


def test_few_windows_are_fetched_with_the_tail(registry: Registry, store: Store) -> None:
    small = Image((Layer(tar({"data": DATA[: 3 << 20]})),))
    reference = registry.add("app", layout_files(small))
    with open_image(reference, Options(lazy=False)) as image:
        manifest, blobs = make_artifact(image.resolved, image.indexes)
        image.source.referrers().attach(image.resolved.descriptor, manifest, blobs)
    registry.requests.clear()
    with open_image(reference, Options(store=store)) as image:
        assert not image.layers[0].verification.is_verified
        assert ranges(registry, str(blobs[1].descriptor.digest)) == [None]


def test_a_registry_without_ranges_sends_the_whole_index_once(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    registry.fault(whole, published)
    registry.requests.clear()
    with open_image(reference, Options(store=store)) as image:
        for span in (5, SPANS - 2, 1):
            read(image, span)
        assert len(ranges(registry, published)) == 2  # the first one had a range, which the registry ignored
        assert part_of_index(image).fetched == part_of_index(image).size


def test_without_a_cache_the_parts_are_in_memory(registry: Registry, reference: str) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=Store(None))) as image:
        read(image, 5)
        read(image, 5)
    assert len(ranges(registry, published)) == 2


def test_a_full_disk_does_not_matter(registry: Registry, reference: str, small_disk: Path) -> None:
    publish(registry)
    (small_disk / "fill").write_bytes(bytes(56 << 10))
    with open_image(reference, Options(store=Store(small_disk / "cache"))) as image:
        read(image, 5)


def test_a_span_and_its_window_are_fetched_at_the_same_time(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    both = threading.Barrier(2, timeout=20)

    def together(handler: Handler, blob: Blob) -> None:
        both.wait()
        handler.route()

    with open_image(reference, Options(store=store)) as image:
        for blob in (published, digest(BASE.blob)):
            registry.fault(together, blob, times=1)
        read(image, 5)
    assert not both.broken


def test_no_thread_uses_the_index_after_a_read_has_failed(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)

    def late(handler: Handler, blob: Blob) -> None:
        time.sleep(0.3)
        handler.route()

    with open_image(reference, Options(store=store)) as image:
        registry.fault(status(404), digest(BASE.blob))
        registry.fault(late, published)
        with pytest.raises(NotFoundError):
            read(image, 5)
        groups = image.layers[0].index.windows.groups
        assert part_of_index(image).has(groups, groups.group_of(5))


# What makes it whole


def verified(image: OpenedImage) -> None:
    """Do what the background work of a mount does."""
    (layer,) = image.layers
    file = fetch_index(layer.index, lambda size: None)
    assert file is not None
    finish(file)
    fetch_all(layer, lambda size: None)
    verify_blob(layer, lambda size: None)
    assert verify_index(layer, lambda size: None)
    mark_verified(layer.index)


def test_a_verified_index_counts_as_built_here(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        read(image, 5)
        verified(image)
    registry.requests.clear()
    with open_image(reference, Options(store=store)) as image:
        assert image.layers[0].verification.is_verified
        assert image.rootfs.open("/data").read() == DATA
    assert ranges(registry, published) == []
    assert store.has(KIND, Digest.of(BASE.blob))


def test_whole_means_that_all_windows_are_there(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        fetch_index(image.layers[0].index, lambda size: None)
        assert store.load(BLOB, Digest(published)) is None
        assert Digest.of(part_of_index(image).pread(1 << 30, 0)) == published
        registry.fault(status(404), published)
        for span in range(SPANS - 1):
            read(image, span)


def test_a_mark_makes_no_part_whole(registry: Registry, reference: str, store: Store) -> None:
    """As after a power failure: the mark may be there, and the windows not."""
    publish(registry)
    with open_image(reference, Options(store=store)) as image:
        mark_verified(image.layers[0].index)
    with open_image(reference, Options(store=store)) as image:
        assert not image.layers[0].verification.is_verified
        read(image, 5)
    assert not store.has(KIND, Digest.of(BASE.blob))


def test_a_marked_index_that_was_changed_is_not_believed(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        verified(image)
        offset, _ = image.layers[0].index.windows.stored_range(5)
    damage(cached(store, published), offset + 9)
    with open_image(reference, Options(store=store)) as image:
        assert not image.layers[0].verification.is_verified
        with pytest.raises(InvalidImageError, match="window of span 5: it has another digest: the cache was changed"):
            read(image, 5)
        read(image, 4)
    assert not store.has(KIND, Digest.of(BASE.blob))


def test_pull_fetches_all_of_an_index(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    assert store.directory is not None
    assert run(["index", "pull", "--cache-dir", str(store.directory), reference], None) == 0
    registry.requests.clear()
    with open_image(reference, Options(store=store)) as image:
        for span in range(SPANS - 1):
            read(image, span)
    assert ranges(registry, published) == []


# Damage, and processes that write to the same file


def damage(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_damage_is_fetched_again(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        read(image, 5)
        offset, _ = image.layers[0].index.windows.stored_range(5)
        tail = image.layers[0].index.data_size
    damage(cached(store, published), offset + 9)
    damage(cached(store, published), tail + 30)
    registry.requests.clear()
    with open_image(reference, Options(store=store)) as image:
        assert len(ranges(registry, published)) == 1
        read(image, 5)
        assert len(ranges(registry, published)) == 2


def test_no_damage_yields_other_bytes(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        for span in range(SPANS - 1):
            read(image, span)
        size = part_of_index(image).size
    for offset in range(0, size, 1500):
        damage(cached(store, published), offset)
    with open_image(reference, Options(store=store)) as image:
        for span in range(SPANS - 1):
            read(image, span)
        for offset in range(0, image.layers[0].index.data_size, 1500):  # another process writes to it
            damage(cached(store, published), offset)
    with open_image(reference, Options(store=store)) as image:
        for span in reversed(range(SPANS - 1)):
            read(image, span)


def test_entries_that_change_after_they_were_verified(registry: Registry, reference: str, store: Store) -> None:
    publish(registry)
    with open_image(reference, Options(store=store)) as image:
        opened = image.layers[0].index
        file = part_of_index(image)
        os.pwrite(file.fd, bytes(4), opened.data_size + 30)
        with pytest.raises(InvalidImageError, match="its entries changed since they were checked"):
            opened.toc()


# What a registry may send


def test_a_window_that_cannot_be_fetched_now(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        registry.fault(status(404), published)
        for _ in range(2):
            with pytest.raises(NotFoundError, match="has no blob sha256"):
                read(image, 5)
        assert image.layers[0].pread(100, 0) == BASE.tar[:100]  # which needs none
        registry.faults.clear()
        read(image, 5)


@pytest.mark.parametrize("fault", [cut(500), hang_up])
def test_a_connection_that_ends_early_is_tried_again(
    registry: Registry, reference: str, store: Store, fault: Any
) -> None:
    published = publish(registry)
    registry.fault(fault, published, times=1)
    with open_image(reference, Options(store=store)) as image:
        registry.faults.clear()
        registry.fault(fault, published, times=1)
        read(image, 5)


def test_other_windows_are_never_used(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        registry.fault(wrong_bytes, published)
        for _ in range(2):
            with pytest.raises(InvalidImageError, match=r"the index of layer sha256:.* the registry returns other"):
                read(image, 5)
        registry.faults.clear()
        read(image, 5)


@pytest.mark.parametrize("fault", [wrong_bytes, shorter])
def test_another_tail_is_never_used(registry: Registry, reference: str, store: Store, fault: Any) -> None:
    published = publish(registry)
    registry.fault(fault, published)
    refused(reference, store)


# What a publisher may state


def refused(reference: str, store: Store) -> str:
    """Open the image, which does without the published index; return the warning."""
    warnings: list[str] = []
    with open_image(reference, Options(store=store, warn=warnings.append)) as image:
        assert image.layers[0].verification.published is None
        assert image.rootfs.open("/small").read() == b"small\n"
    (warning,) = warnings
    return warning


def stating(**changes: Callable[[str], str]) -> Alter:
    """Change what the annotations state."""
    names = {"size": TAIL_SIZE, "digest": TAIL_DIGEST}
    return lambda data, stated: (
        data,
        stated | {names[each]: alter(stated[names[each]]) for each, alter in changes.items()},
    )


def with_summary(alter: Callable[[LayerIndex, bytes], dict[str, Any]]) -> Alter:
    """Change the summary, and state the tail as it is then."""

    def changed(data: bytes, stated: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        built = index()
        digests = b"".join(
            hashlib.sha256(data[offset : offset + size]).digest()
            for offset, size in map(built.windows.stored_range, range(built.windows.count))
        )
        summary = replace(built.summary, **{"window_digests": digests} | alter(built, digests))
        tail = join_tail(built.packed_toc(), summary, built.data_size)
        annotations = {TAIL_SIZE: str(len(tail)), TAIL_DIGEST: hashlib.sha256(tail).hexdigest()}
        return data[: built.data_size] + tail, stated | annotations

    return changed


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (stating(size=lambda size: str(int(size) + 1)), "the registry returns other bytes"),
        (stating(size=lambda size: str(int(size) - 1)), "the registry returns other bytes"),
        (stating(size=lambda size: f"+{size}"), "state an impossible part"),
        (stating(size=lambda size: "٣" * 5), "state an impossible part"),
        (stating(size=lambda size: "9" * 400), "state an impossible part"),
        (stating(size=lambda size: "24"), "state an impossible part"),
        (stating(digest=lambda digest: digest[::-1]), "the registry returns other bytes"),
        (stating(digest=lambda digest: digest[:-1]), "state an impossible part"),
        (stating(digest=lambda digest: digest.upper()), "state an impossible part"),
        (with_summary(lambda built, digests: {"window_digests": b""}), "its windows have no digests"),
        (with_summary(lambda built, digests: {"window_digests": digests[:-1]}), "contradict each other"),
        (with_summary(lambda built, digests: {"windows": b""}), "contradict each other"),
    ],
)
def test_a_statement_that_cannot_be_true_is_refused(
    registry: Registry, reference: str, store: Store, alter: Alter, message: str
) -> None:
    publish(registry, alter)
    assert message in refused(reference, store)


def test_a_tail_must_be_all_that_is_behind_the_windows(registry: Registry, reference: str, store: Store) -> None:
    """Otherwise the entries would be read before they are fetched."""

    def shorter_tail(data: bytes, stated: dict[str, str]) -> tuple[bytes, dict[str, str]]:
        tail = data[index().data_size + 100 :]
        return data, stated | {TAIL_SIZE: str(len(tail)), TAIL_DIGEST: hashlib.sha256(tail).hexdigest()}

    publish(registry, shorter_tail)
    assert "its last sections have another digest" in refused(reference, store)


def test_digests_of_windows_that_lie_fail_the_read(registry: Registry, reference: str, store: Store) -> None:
    publish(registry, with_summary(lambda built, digests: {"window_digests": bytes(len(digests))}))
    with open_image(reference, Options(store=store)) as image:
        with pytest.raises(InvalidImageError, match="the registry returns other bytes"):
            read(image, 5)
        with pytest.raises(InvalidImageError, match="the registry returns other bytes"):
            fetch_index(image.layers[0].index, lambda size: None)


def test_an_index_with_another_digest_than_stated_is_refuted(registry: Registry, reference: str, store: Store) -> None:
    """All its parts are what its tail says, but not what the artifact says."""
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        file = part_of_index(image)
        origin = replace(file.origin(), digest=str(Digest.of(b"another")))
        file.origin = lambda: origin
        with pytest.raises(InvalidImageError, match=f"its bytes have the digest {published}, not sha256:"):
            fetch_index(image.layers[0].index, lambda size: None)


# In another process


@pytest.fixture
def handed(registry: Registry, reference: str, store: Store) -> Iterator[tuple[Handoff, OpenedImage]]:
    """A handoff with descriptors of its own, and the image that it is of."""
    publish(registry)
    with open_image(reference, Options(store=store)) as image:
        handoff = Handoff.of(image.rootfs)
        copies = {fd: os.dup(fd) for fd in handoff.fds()}
        yield handoff.renumbered(copies), image
        for fd in copies.values():
            os.close(fd)


def test_another_process_fetches_windows_itself(handed: tuple[Handoff, OpenedImage]) -> None:
    handoff, image = handed
    with handoff.open(SpanCache()) as rootfs:
        (layer,) = rootfs.served.layers
        read_span(layer, 5)
        assert layer.index.tail == image.layers[0].index.tail is not None
        assert isinstance(layer.index.file, LazyBlob)
        assert layer.index.file.origin() == part_of_index(image).origin()
        assert layer.index.file.requests == 1
        read(image, 5)
        assert part_of_index(image).requests == 1  # for the tail


def test_another_process_checks_the_tail_again(handed: tuple[Handoff, OpenedImage]) -> None:
    handoff, image = handed
    os.pwrite(part_of_index(image).fd, bytes(4), image.layers[0].index.data_size + 30)
    with pytest.raises(InvalidImageError, match="its last sections have another digest"):
        handoff.open(SpanCache())


def test_a_part_is_named_by_its_size(registry: Registry, reference: str, store: Store) -> None:
    published = publish(registry)
    with open_image(reference, Options(store=store)) as image:
        size = part_of_index(image).size
    assert cached(store, published).name == f"part1-{published.replace(':', '-')}-{size}"
