"""Mounts of the service use each other's decoded spans, and never wrong ones, whatever a worker sends."""

import contextlib
import fcntl
import itertools
import os
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocifs.layer.index_format import Summary, pack_u64
from ocifs.layer.span import Span
from ocifs.layer.span_cache import SpanCache
from ocifs.layer.span_memory import SpanMemory
from ocifs.mount.handoff import FileRange, Handoff
from ocifs.mount.job import Job
from ocifs.mount.options import MountOptions
from ocifs.service.span_broker import SpanBroker
from ocifs.service.span_exchange import SpanExchange
from ocifs.service.span_messages import (
    DROPPED,
    GET,
    HAVE,
    HINTS,
    NONE,
    OFFER,
    PUBLISH,
    PUT,
    RECORDS_MAX,
    SAME,
    SPAN,
    Record,
    receive,
    sealed,
    send,
)
from tests.images import Image, write_layout
from tests.images import Layer as ImageLayer
from tests.service.conftest import FILES, content
from tests.service.running import Service, digests
from tests.tars import file, tar
from tests.waiting import wait_for

if TYPE_CHECKING:
    from ocifs.layer.layer import Layer

SIZE = 128 << 10
SPANS = 6
KEY = 0, 1


def span_bytes(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


SUMMARY = Summary(
    blob_digest="sha256:blob",
    blob_size=SPANS,
    diff_id="sha256:tar",
    size=SPANS * SIZE,
    codec="tar",
    reframed=False,
    entries=0,
    starts=pack_u64(range(0, (SPANS + 1) * SIZE, SIZE)),
    offsets=pack_u64(range(SPANS + 1)),
    bits=bytes(SPANS + 1),
    windows=pack_u64(range(SPANS + 1)),
    digests=bytes(32 * SPANS),
    warnings=(),
)


class Keeper:
    """A broker, and the loop of a keeper around it, in a thread."""

    def __init__(self, capacity: int = 64 << 20) -> None:
        self.handlers: dict[int, Callable[[], None]] = {}
        self.lock = threading.Lock()
        self.broker = SpanBroker(capacity, self.handlers.__setitem__, self.unwatch)
        self.is_stopped = False
        self.thread = threading.Thread(target=self.run)

    def unwatch(self, fd: int) -> None:
        del self.handlers[fd]

    def run(self) -> None:
        while not self.is_stopped:
            with self.lock:
                fds = [*self.handlers]
            ready, _, _ = select.select(fds, [], [], 0.005)
            with self.lock:
                for fd in ready:
                    if fd in self.handlers:
                        self.handlers[fd]()

    def connect(self, image: str) -> socket.socket:
        job = Job(
            image="",
            digest=image,
            mountpoint="/mnt",
            rootfs=Handoff(FileRange(0, 0, 0), ()),
            options=MountOptions(),
        )
        with self.lock:
            return self.broker.connect(job)

    def hints(self) -> list[int]:
        return memoryview(os.pread(self.broker.hints, 1 << 20, 0)).cast("I").tolist()


@contextmanager
def keeper(capacity: int = 64 << 20) -> Iterator[Keeper]:
    running = Keeper(capacity)
    running.thread.start()
    try:
        yield running
    finally:
        running.is_stopped = True
        running.thread.join()
        running.broker.close()


class Mount:
    """A worker's cache of one layer with `SPANS` spans, and its exchange with other workers."""

    def __init__(
        self,
        keeper: Keeper,
        image: str = "image",
        capacity: int = 64 << 20,
        summary: Summary = SUMMARY,
        patience: float = 20,
    ) -> None:
        self.decoded = 0
        self.cache = SpanCache(capacity, memory=SpanMemory(capacity))
        self.connection = keeper.connect(image)
        layer = cast("Layer", SimpleNamespace(index=SimpleNamespace(summary=summary)))
        self.exchange = SpanExchange(self.connection, keeper.broker.hints, [layer], self.cache, patience)
        self.cache.sharing = self.exchange

    def read(self, number: int, end: int = SIZE) -> bytes:
        def load() -> Span:
            self.decoded += 1
            data = span_bytes(number)
            position = itertools.count()

            class Decoder:
                def __init__(self) -> None:
                    self.position = next(position)

                def read(self, size: int, /) -> bytes:
                    self.position += size
                    return data[self.position - size : self.position]

            return Span(SIZE, Decoder())

        span = self.cache.decoded((0, number), SIZE, end, load, shared=True)
        return b"".join(span.views(0, end))

    def holds_shared(self, number: int) -> bool:
        span = self.cache.cached((0, number))
        return span is not None and span.is_shared

    def end(self) -> None:
        """Die: the keeper only notices the end of its connection."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        if not self.exchange._identities:
            self.connection.close()


def test_a_span_that_another_mount_has_decoded_is_not_decoded_again() -> None:
    with keeper() as running:
        first, second, third = Mount(running), Mount(running), Mount(running)
        assert first.read(1) == span_bytes(1)
        wait_for(lambda: running.broker.own == SIZE)
        assert second.read(1) == third.read(1) == span_bytes(1)
        assert (first.decoded, second.decoded, third.decoded) == (1, 0, 0)
        assert (second.exchange.taken, third.exchange.taken) == (1, 1)
        wait_for(lambda: (running.broker.own, running.broker.shared) == (0, SIZE))
        assert all(each.holds_shared(1) for each in (first, second, third))
        assert first.cache.used == second.cache.used == 0
        for each in (first, second, third):
            each.end()
        wait_for(lambda: (running.broker.shared, running.broker.files) == (0, 0))
        assert first.read(1) == span_bytes(1)  # what it has stays its own
        assert not any(running.hints())


def test_mounts_that_decode_the_same_at_once_end_with_one_copy() -> None:
    with keeper() as running:
        mounts = [Mount(running) for _ in range(3)]
        for each in mounts:
            assert each.read(1) == span_bytes(1)  # before the keeper hears of the others
        wait_for(lambda: (running.broker.own, running.broker.shared) == (0, SIZE))
        wait_for(lambda: all(each.holds_shared(1) for each in mounts))
        for each in mounts:
            each.end()


def test_a_beginning_is_shared_and_replaced_when_more_is_decoded() -> None:
    with keeper() as running:
        first, second = Mount(running), Mount(running)
        assert first.read(1, 100_000) == span_bytes(1)[:100_000]
        wait_for(lambda: running.broker.own == 100_000)
        assert second.read(1, 90_000) == span_bytes(1)[:90_000]
        assert second.read(1, 110_000) == span_bytes(1)[:110_000]
        assert second.decoded == 1  # from its start: only the first mount's decoder could go on
        wait_for(lambda: (running.broker.own, running.broker.shared) == (0, 110_000))
        assert first.read(1) == span_bytes(1)
        wait_for(lambda: (running.broker.own, running.broker.shared) == (0, SIZE))
        assert second.read(1) == span_bytes(1)
        assert second.decoded == 1
        first.end()
        second.end()


@pytest.mark.parametrize(
    ("changes", "decoded"),
    [
        ({"windows": pack_u64([0] * (SPANS + 1)), "untrimmed": True, "warnings": ("odd",)}, 0),
        ({"diff_id": "sha256:other"}, 1),
        ({"offsets": pack_u64([0] * (SPANS + 1))}, 1),
        ({"digests": bytes(32 * SPANS - 1) + b"1"}, 1),
    ],
)
def test_only_what_decides_the_bytes_tells_layers_apart(changes: dict[str, object], decoded: int) -> None:
    with keeper() as running:
        first = Mount(running)
        other = Mount(running, summary=msgspec.structs.replace(SUMMARY, **changes))
        first.read(1)
        wait_for(lambda: running.broker.own == SIZE)
        other.read(1)
        assert other.decoded == decoded
        first.end()
        other.end()


def test_another_image_compares_with_its_own_bytes_first() -> None:
    with keeper() as running:
        first, other = Mount(running, "image"), Mount(running, "other")
        first.read(1)
        wait_for(lambda: running.broker.own == SIZE)
        assert other.read(1) == span_bytes(1)
        assert (other.decoded, other.exchange.taken) == (1, 0)
        wait_for(lambda: (running.broker.own, running.broker.shared) == (0, SIZE))  # and then shares the memory
        third = Mount(running, "other")
        assert third.read(1) == span_bytes(1)
        assert third.decoded == 0
        for each in (first, other, third):
            each.end()


def rogue(running: Keeper, image: str, victim: Mount, payload: bytes, *, seal: bool = True) -> socket.socket:
    """Return the connection of a worker that sends wrong bytes, once it is asked for the span of the victim."""
    victim.read(0)
    wait_for(lambda: running.broker.own == SIZE)
    connection = running.connect(image)
    name = victim.exchange._name(KEY)
    send(connection, [Record(HAVE, name, len(payload))])
    wait_for(lambda: running.broker.own == SIZE + len(payload))

    def answer() -> None:
        try:
            while (received := receive(connection))[0]:
                for record in received[0]:
                    if record.kind == PUBLISH:
                        fd = sealed([payload]) if seal else os.memfd_create("span", os.MFD_ALLOW_SEALING)
                        os.ftruncate(fd, len(payload)) if not seal else None
                        send(connection, [Record(PUT, name, len(payload))], fd)
                        os.close(fd)
        except OSError:
            pass

    threading.Thread(target=answer, daemon=True).start()
    return connection


def test_wrong_bytes_of_another_image_are_noticed_and_never_served(caplog: pytest.LogCaptureFixture) -> None:
    with keeper() as running:
        victim = Mount(running, "image")
        connection = rogue(running, "hostile", victim, b"x" * SIZE)
        assert victim.read(1) == span_bytes(1)
        wait_for(lambda: "different bytes" in caplog.text)
        assert victim.read(1) == span_bytes(1)
        later = Mount(running, "image")
        assert later.read(1) == span_bytes(1)
        assert (later.decoded, running.broker.shared) == (1, 0)
        victim.end()
        later.end()
        connection.close()
    caplog.clear()


def test_a_comparison_does_not_count_for_a_later_file() -> None:
    name = bytes(16), 1
    with keeper() as running:
        hostile, honest, third = (running.connect(image) for image in ("hostile", "image", "image"))
        send(hostile, [Record(HAVE, name, SIZE)])
        wait_for(lambda: running.broker.own == SIZE)
        send(honest, [Record(HAVE, name, SIZE)])
        assert next_kinds(hostile) == [PUBLISH]
        put(hostile, name, span_bytes(1))
        (offer,), compared = receive(honest)
        assert offer.kind == OFFER
        assert compared is not None
        send(hostile, [Record(HAVE, name, SIZE + 1)])  # before the answer arrives
        assert next_kinds(hostile) == [PUBLISH]
        put(hostile, name, b"x" * (SIZE + 1))
        assert next_kinds(honest) == [OFFER]
        send(honest, [Record(SAME, name, os.fstat(compared).st_ino)])
        send(third, [Record(GET, name, SIZE)])
        assert next_kinds(honest) == [PUBLISH]  # not the file that no worker has compared
        put(honest, name, span_bytes(1))
        (found,), fd = receive(third)
        assert found == Record(SPAN, name, SIZE)
        assert fd is not None
        assert os.pread(fd, SIZE, 0) == span_bytes(1)
        for each in (fd, compared):
            os.close(each)
        for connection in (hostile, honest, third):
            connection.close()


def next_kinds(connection: socket.socket) -> list[int]:
    """Return the kinds of the next records for a worker."""
    connection.settimeout(20)
    records, fd = receive(connection)
    if fd is not None:
        os.close(fd)
    return [record.kind for record in records]


def put(connection: socket.socket, name: tuple[bytes, int], data: bytes) -> None:
    fd = sealed([data])
    send(connection, [Record(PUT, name, len(data))], fd)
    os.close(fd)


def test_a_waiting_reader_does_not_get_a_span_that_must_be_compared() -> None:
    with keeper() as running:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        hints = os.memfd_create("hints")
        os.pwrite(hints, b"\1" * (HINTS * 4), 0)
        mount = Mount(running)
        mount.exchange = mount.cache.sharing = SpanExchange(theirs, hints, mount.exchange._layers, mount.cache, 20)
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(mount.read, 1)
            (record,), _ = receive(ours)
            assert record.kind == GET
            fd = sealed([b"x" * SIZE])
            send(ours, [Record(OFFER, record.name, SIZE)], fd)
            assert next_kinds(ours) == [DROPPED]
            send(ours, [Record(NONE, record.name)])
            assert reading.result() == span_bytes(1)
        for each in (fd, hints):
            os.close(each)
        ours.close()
        mount.connection.close()


def test_a_file_that_could_still_change_is_refused() -> None:
    with keeper() as running:
        victim = Mount(running)
        connection = rogue(running, "image", victim, b"x" * SIZE, seal=False)
        assert victim.read(1) == span_bytes(1)
        assert victim.decoded == 2
        wait_for(lambda: len(running.handlers) == 1)  # the keeper has ended the connection
        victim.end()
        connection.close()


def test_a_shared_span_cannot_be_changed_by_any_process() -> None:
    fd = sealed([b"one", memoryview(b"two")])
    assert os.pread(fd, 10, 0) == b"onetwo"
    for change in (
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.ftruncate(fd, 3),
        lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    ):
        with pytest.raises(PermissionError):
            change()
    with pytest.raises(PermissionError):
        os.write(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY), b"x")
    os.close(fd)


@pytest.mark.parametrize(
    "packet",
    [b"x", bytes(29 * 200), b"\xff" * 29, Record(HAVE, (bytes(16), 1), 1 << 60)],
    ids=["half a record", "too many", "an unknown kind", "too large"],
)
def test_a_worker_that_sends_malformed_messages_goes_on_alone(packet: bytes | Record) -> None:
    with keeper() as running:
        mount = Mount(running)
        mount.read(1)
        wait_for(lambda: running.broker.own == SIZE)
        if isinstance(packet, Record):
            send(mount.connection, [packet])
        else:
            mount.connection.send(packet)
        wait_for(lambda: not running.handlers)
        assert mount.read(1) == mount.read(1) == span_bytes(1)
        assert mount.read(2) == span_bytes(2)
        with running.lock:  # it forgets a worker after its handler
            assert running.broker.own == 0


def test_what_a_worker_sends_after_it_was_forgotten_counts_for_nothing() -> None:
    with keeper(SIZE) as running:
        connection = running.connect("image")
        for _ in range(20):  # the answers, which it does not read, are more than the connection holds
            wait_for(lambda: send(connection, [Record(GET, (bytes(16), 0), SIZE)] * RECORDS_MAX))
        send(connection, [Record(HAVE, (bytes(16), number), 2 * SIZE) for number in (1, 2)])
        wait_for(lambda: not running.handlers)
        with running.lock:
            assert (running.broker.own, set(running.hints())) == (0, {0})
        connection.close()


def test_of_a_layer_that_an_image_has_twice_one_is_shared() -> None:
    with keeper() as running:
        first, second = Mount(running), Mount(running)
        layer = second.exchange._layers[0]
        twice = SpanExchange(second.connection, running.broker.hints, [layer, layer], second.cache, 20)
        first.read(1)
        wait_for(lambda: running.broker.own == SIZE)
        assert twice.find((0, 1), SIZE, SIZE) is None
        assert bytes(twice.find((1, 1), SIZE, SIZE) or b"") == span_bytes(1)
        first.end()
        second.end()


def test_a_worker_that_does_not_answer_delays_others_for_a_moment_only() -> None:
    with keeper() as running:
        first = Mount(running, patience=0.05)
        first.read(0)
        connection = running.connect("image")
        send(connection, [Record(HAVE, first.exchange._name(KEY), SIZE)])
        wait_for(lambda: running.broker.own == 2 * SIZE)
        assert first.read(1) == span_bytes(1)
        assert first.decoded == 2
        first.end()
        connection.close()


def test_the_budget_bounds_all_mounts_together() -> None:
    with keeper(3 * SIZE) as running:
        idle, active = Mount(running), Mount(running)
        for number in range(3):
            idle.read(number)
        wait_for(lambda: running.broker.own == 3 * SIZE)
        assert active.read(0) == span_bytes(0)
        assert active.decoded == 0
        for number in range(3, SPANS):
            assert active.read(number) == span_bytes(number)
        wait_for(lambda: idle.cache.used == 0)
        wait_for(lambda: running.broker.own + running.broker.shared <= 3 * SIZE)
        assert idle.read(1) == span_bytes(1)
        idle.end()
        active.end()


ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("read"), st.integers(0, 3), st.integers(0, SPANS - 1), st.sampled_from([70_000, 100_000, SIZE])
        ),
        st.tuples(st.just("drop"), st.integers(0, 3), st.integers(0, SPANS - 1), st.just(0)),
        st.tuples(st.just("replace"), st.integers(0, 3), st.just(0), st.just(0)),
        st.tuples(st.just("pause"), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS)
def test_random_sequences_read_the_right_bytes_and_leave_nothing(
    actions: list[tuple[str, int, int, int]],
) -> None:
    """The model: each read returns the bytes of the span."""
    with keeper(4 * SIZE) as running:
        images = ("image", "image", "image", "other")
        mounts = [Mount(running, image, 3 * SIZE) for image in images]
        for action, mount, number, end in actions:
            if action == "read":
                assert mounts[mount].read(number, end) == span_bytes(number)[:end]
            elif action == "drop":
                mounts[mount].cache.drop((0, number))
            elif action == "replace":
                mounts[mount].end()
                mounts[mount] = Mount(running, images[mount], 3 * SIZE)
            else:
                time.sleep(0.03)
        wait_for(lambda: running.broker.own + running.broker.shared <= 4 * SIZE)
        for each in mounts:
            each.end()
        wait_for(lambda: not running.handlers)
        broker = running.broker
        assert (broker.own, broker.shared, broker.files, any(running.hints())) == (0, 0, 0, False)


WITHOUT_PACK = "--hot-pack", "0"
"""Else a later mount may read what an earlier one has read from the hot pack, not from spans."""


def test_a_mount_reads_what_another_one_has_decoded(service: Service) -> None:
    with service.mounted(*WITHOUT_PACK) as first, service.mounted(*WITHOUT_PACK) as second:
        expected = digests(first)
        wait_for(lambda: service.state().spans >= FILES << 20)
        assert digests(second) == expected
        numbers = service.listed(second).numbers
        assert numbers is not None
        assert numbers.spans_taken > 0
        wait_for(lambda: service.state().shared_spans > 0)
        text = service.ocifs.output("service", "status")
        assert "shared between mounts: " in text
        service.kill_worker(first)  # what it has shared stays with the other mount
        drop_caches()
        assert digests(first) == digests(second) == expected
    wait_for(lambda: (service.state().spans, service.state().shared_spans) == (0, 0))


def memory_files(pid: int, name: str) -> set[int]:
    """Return the inodes of the open files in memory with a name."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(link).startswith(f"/memfd:{name} "):
                found.add(link.stat().st_ino)
    return found


def test_mounts_of_an_image_have_one_copy_of_its_tree(service: Service) -> None:
    with service.mounted(*WITHOUT_PACK) as first, service.mounted(*WITHOUT_PACK) as second:
        (tree,) = memory_files(service.worker(first), "ocifs")
        assert memory_files(service.worker(second), "ocifs") == {tree}
    with service.mounted(*WITHOUT_PACK) as third:
        assert memory_files(service.worker(third), "ocifs") != {tree}


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("1")


def test_a_stopped_worker_does_not_stop_the_mounts_that_share_with_it(service: Service) -> None:
    with service.mounted(*WITHOUT_PACK) as first, service.mounted(*WITHOUT_PACK) as second:
        expected = digests(first)
        wait_for(lambda: service.state().spans >= FILES << 20)
        stopped = service.worker(first)
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert digests(second) == expected
        finally:
            os.kill(stopped, signal.SIGCONT)


def test_an_image_with_a_common_layer_shares_the_memory(service: Service, image: Path, tmp_path: Path) -> None:
    members = [file(b"%02d" % number, content(number)) for number in range(FILES)]
    layers = (ImageLayer(tar(members[::2])), ImageLayer(tar([file(b"other", b"x")])))
    other = write_layout(tmp_path / "other", Image(layers=layers))
    with service.mounted(*WITHOUT_PACK) as first, service.ocifs.mounted(other, *WITHOUT_PACK) as second:
        digests(first)
        wait_for(lambda: service.state().spans >= FILES << 20)
        assert len(digests(second)) == FILES // 2 + 1
        numbers = service.listed(second).numbers
        assert numbers is not None
        assert numbers.spans_taken == 0  # it has decoded them itself, and compared
        wait_for(lambda: service.state().shared_spans >= FILES // 2 << 20)
