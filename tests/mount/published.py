"""A registry image with a published index and hot pack, and the hot start of its mount, without a mount."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ocifs.hotpack.format import PackTable, read_table
from ocifs.hotpack.recording import Range
from ocifs.image.hot_pack import streams_of
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from ocifs.indexes.artifact import make_artifact
from ocifs.layer.layer import Layer as OpenedLayer
from ocifs.layer.span_cache import SpanCache
from ocifs.mount.handoff import CacheDirectory, Handoff, source_of
from ocifs.mount.hot_start import HotStart
from ocifs.mount.job import Job
from ocifs.mount.record import EngineName, PackRecord
from ocifs.options import Options
from ocifs.reader import BytesReader
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.hotpack.packs import forged
from tests.images import Image, Layer, layout_files
from tests.registry import Act, Blob, Handler, Registry
from tests.tars import file, tar

KIB, MIB = 1 << 10, 1 << 20
CONTENT = random.Random(1).randbytes(1000 * KIB) + bytes(500 * KIB)
LAYERS = tuple(Layer(tar([file(b"data%d" % number, CONTENT[number:])]), "gzip") for number in range(2))
FIRST, SECOND, THIRD = (0, 0, 128 * KIB), (1, 512 * KIB, 640 * KIB), (0, 800 * KIB, 900 * KIB)
"""What the pack has, each in a frame."""
COLD = (0, 400 * KIB, 600 * KIB)
"""What it lacks."""


class Published(NamedTuple):
    """What a registry has."""

    registry: Registry
    reference: str
    digest: str
    """Of the pack."""
    frames: tuple[int, ...]
    """Where each frame of the pack begins, and where the last one ends."""

    @property
    def requests(self) -> list[str]:
        """The ranges of the pack that were asked for; "" for all of it."""
        return [each.range for each in self.registry.sent if self.digest in each.path]

    def fault(self, act: Act, *, times: int = 1_000_000, after: int = 0) -> None:
        """Let the pack not arrive as it is."""
        self.registry.fault(act, self.digest, times=times, after=after)


def publish(
    registry: Registry,
    alter: Callable[[bytes], bytes] = bytes,
    damage: Callable[[bytes, PackTable], bytes] = lambda data, table: data,
    of: Callable[[list[OpenedLayer]], list[OpenedLayer]] = list,
    found: tuple[Range, ...] = (FIRST, SECOND, THIRD),
    *,
    has_pack: bool = True,
) -> Published:
    """Publish an image with its index, and with a pack of altered blocks whose digests are right, damaged then."""
    reference = registry.add("app", layout_files(Image(LAYERS)))
    with open_image(reference, Options(lazy=False)) as opened:
        layers = of(opened.layers)
        pack = forged(layers, found, alter)
        table = read_table(BytesReader(pack), streams_of(layers), 64 * MIB)
        pack = damage(pack, table)
        manifest, blobs = make_artifact(opened.resolved, opened.indexes, pack if has_pack else None)
        opened.source.referrers().attach(opened.resolved.descriptor, manifest, blobs)
    registry.requests.clear()
    borders = (*(frame.offset for frame in table.frames), table.end)
    return Published(registry, reference, str(Digest.of(pack)), borders)


def stall_after(size: int) -> Act:
    """Send so many bytes of the answer, and then nothing until the registry is closed."""

    def act(handler: Handler, blob: Blob) -> None:
        handler.close_connection = True
        handler.serve(blob, cut_at=size)
        handler.registry.closing.wait()

    return act


class Kernel:
    """An engine without a mount, as a hot start sees it."""

    name: EngineName = "fuse"

    def __init__(self, rootfs: Rootfs | None = None, job: Job | None = None) -> None:
        """Serve nothing."""

    def mount(self) -> str | None:
        return None

    def open_served_file(self, released: Callable[[], None]) -> int | None:
        return None

    def raise_readahead(self) -> None:
        """Have none."""

    def serve(self, stop: int, ready: Callable[[], None]) -> None:
        """Serve nothing."""

    def close(self) -> None:
        """Have nothing to release."""


class Start(NamedTuple):
    """A hot start."""

    hot: HotStart
    rootfs: Rootfs
    handoff: Handoff
    reported: list[PackRecord]

    @property
    def layers(self) -> list[OpenedLayer]:
        return list(self.rootfs.served.layers)

    def read(self, found: Range) -> bytes:
        """Return the bytes of a range, from the pack or a layer."""
        layer, begin, end = found
        served = self.rootfs.served
        return b"".join(served.views(end - begin, served.bases[layer] + begin))

    def wait(self) -> None:
        """Wait until the pack has arrived, or will not; it may be in the cache."""
        if self.hot._download is not None:
            self.hot._download.wait()

    def be_impatient(self) -> None:
        """Let no reader wait for long."""
        assert self.rootfs.served.pack is not None
        assert self.hot._download is not None
        self.rootfs.served.pack.patience = self.hot._download.file.patience = 0.05

    def verify(self) -> None:
        """Verify the layers, which is not done here, and the pack."""
        for layer in self.layers:
            layer.conclude()
        self.hot.verify(lambda size: None)


def right(found: Range) -> bytes:
    layer, begin, end = found
    return LAYERS[layer].tar[begin:end]


@contextmanager
def started(
    reference: str,
    store: Store,
    limit: int = 64 * MIB,
    *,
    before: Callable[[Start], None] = lambda start: None,
    resumed: bool = False,
) -> Iterator[Start]:
    """Start what follows a mount, or resume it as another process does."""
    with open_image(reference, Options(store=store)) as image:
        assert store.opened is not None
        cache = CacheDirectory(store.opened.fd, store.max_size)
        handoff = Handoff.of(image.rootfs, source_of(image.hot_pack(limit)), cache)
        with start_of(handoff, limit, before=before, resumed=resumed) as made:
            yield made


@contextmanager
def start_of(
    handoff: Handoff,
    limit: int = 64 * MIB,
    *,
    before: Callable[[Start], None] = lambda start: None,
    resumed: bool = False,
) -> Iterator[Start]:
    with handoff.open(SpanCache()) as rootfs:
        made = Start(HotStart(handoff, rootfs, limit), rootfs, handoff, [])
        before(made)
        (made.hot.resume if resumed else made.hot.start)(Kernel(), made.reported.append)
        try:
            yield made
        finally:
            made.hot.stop()
            if rootfs.served.recording is not None:
                rootfs.served.recording.end()
