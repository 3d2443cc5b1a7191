"""How long does it take until a thousand nodes have started the same container?

A simulation that replays a real start: the requests of one node to its registry are recorded with their sizes and the
pauses between them, from the pull to the first line of the container. Then all nodes start within a second, and share
the link of one registry (10 Gbit/s); each node has a link of 1 Gbit/s. Side by side: ocifs with a published index, with
a hot pack as well, and containerd's overlayfs, which downloads and unpacks the image; each directly, and through 20
pull-through mirrors, which fetch a range from the registry once. Bytes and requests are exact; times leave out that the
disk and the processors of the registry are shared. The published times are those of other images on other machines.
"""

import heapq
import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.publish import publish
from benchmarks.snapshotter import node
from benchmarks.timing import arguments, ocifs, report
from tests.images import Files
from tests.registry import Registry, Transfer, running

_REGISTRY = 10e9 / 8
_MIRROR = 10e9 / 8
_NODE = 1e9 / 8
"""Bytes a second of the links."""
_ROUND_TRIP = 0.001
_JITTER = 1.0
"""Seconds within which all nodes start."""
_PYTHON = ["/usr/bin/python3", "-c", "print('hello', flush=True)"]
_PUBLISHED = {
    "published: DADI, 10,000 on 1,000": 4.0,
    "published: FaaSNet, 2,500 on 1,000": 8.3,
}
"""Seconds for containers on hosts: Li et al., USENIX ATC 2020; Wang et al., USENIX ATC 2021."""
_FLEET = 1000
_OCIFS, _PACK, _OVERLAYFS = "ocifs, index published", "ocifs, index and hot pack published", "overlayfs"


class Step(NamedTuple):
    """A request of a node."""

    key: str
    """The requested object; a mirror keeps it by this name."""
    size: int
    """Bytes of the answer."""
    after: int
    """Number of the request whose answer it waits for; -1: none."""
    pause: float
    """Seconds from that answer, or from the start, to the request."""


class Trace(NamedTuple):
    """A start, as recorded."""

    steps: tuple[Step, ...]
    rest: float
    """Seconds from the last answer to the first line of the container."""


def trace_of(transfers: list[Transfer], began: float, ended: float) -> Trace:
    """Infer which answer each request waited for: the latest one that had arrived when it was sent."""
    sorted_ = sorted((each for each in transfers if each.ended <= ended), key=lambda each: each.began)
    steps = []
    for transfer in sorted_:
        before = [(each.ended, number) for number, each in enumerate(sorted_) if each.ended <= transfer.began]
        latest, number = max(before, default=(began, -1))
        key = f"{transfer.path.partition('?')[0]} {transfer.range}"
        steps.append(Step(key, transfer.size, number, transfer.began - latest))
    last = max((each.ended for each in sorted_), default=began)
    return Trace(tuple(steps), ended - last)


class Link:
    """A link whose transfers share its rate equally, each up to `most`; times and sizes in seconds and bytes.

    Progress is counted per transfer (virtual time): all active transfers have received `self._given` more bytes since
    the beginning, so the next one to end is the one with the smallest target.
    """

    def __init__(self, simulation: "Simulation", rate: float, most: float) -> None:
        self._simulation = simulation
        self._rate, self._most = rate, most
        self._given = 0.0
        self._updated = 0.0
        self._active: list[tuple[float, int, Callable[[], None]]] = []
        self._version = 0
        self._numbers = itertools.count()
        self.carried = 0
        self.requests = 0

    def send(self, size: int, done: Callable[[], None]) -> None:
        """Transfer `size` bytes, and call `done` at the end."""
        self._advance()
        self.carried += size
        self.requests += 1
        heapq.heappush(self._active, (self._given + size, next(self._numbers), done))
        self._schedule()

    def _advance(self) -> None:
        now = self._simulation.now
        if self._active:
            self._given += (now - self._updated) * self._share()
        self._updated = now

    def _share(self) -> float:
        return min(self._rate / len(self._active), self._most)

    def _schedule(self) -> None:
        self._version += 1
        if self._active:
            wait = max(self._active[0][0] - self._given, 0.0) / self._share()
            self._simulation.at(self._simulation.now + wait, partial(self._end, self._version))

    def _end(self, version: int) -> None:
        if version != self._version:  # another transfer has begun or ended meanwhile
            return
        self._advance()
        ended = []
        while self._active and self._active[0][0] <= self._given + 1e-6 * self._rate / 1e3:
            ended.append(heapq.heappop(self._active)[2])
        self._schedule()
        for done in ended:
            done()


class Simulation:
    """Events in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Call `act` at a time."""
        heapq.heappush(self._events, (when, next(self._numbers), act))

    def run(self) -> None:
        """Run until no event is left."""
        while self._events:
            self.now, _, act = heapq.heappop(self._events)
            act()


class Mirror:
    """A pull-through mirror: it fetches what it lacks once, and then serves it over its own link."""

    def __init__(self, simulation: Simulation, registry: Link) -> None:
        self._simulation = simulation
        self._registry = registry
        self._link = Link(simulation, _MIRROR, _NODE)
        self._waiting: dict[str, list[Callable[[], None]] | None] = {}
        """Callbacks that wait for each object being fetched; None: the mirror has it."""

    def send(self, key: str, size: int, done: Callable[[], None]) -> None:
        """Serve an answer."""
        serve = partial(self._link.send, size, done)
        waiting = self._waiting.get(key, [])
        if key in self._waiting:
            if waiting is None:
                serve()
            else:
                waiting.append(serve)
            return
        self._waiting[key] = [serve]
        self._simulation.at(
            self._simulation.now + _ROUND_TRIP, lambda: self._registry.send(size, lambda: self._arrived(key))
        )

    def _arrived(self, key: str) -> None:
        waiting = self._waiting[key] or []
        self._waiting[key] = None
        for serve in waiting:
            serve()


@dataclass
class Result:
    """What a fleet of nodes did."""

    last: float = 0.0
    """Seconds until the last node had printed its line."""
    times: list[float] = field(default_factory=list)
    registry_bytes: int = 0
    registry_requests: int = 0


def simulate(trace: Trace, nodes: int, mirrors: int, *, jitter: float = _JITTER) -> Result:
    """Start the container on all nodes, within `jitter` seconds."""
    simulation = Simulation()
    registry = Link(simulation, _REGISTRY, _MIRROR if mirrors else _NODE)
    places = [Mirror(simulation, registry) for _ in range(mirrors)]
    result = Result()
    chance = random.Random(1)
    for number in range(nodes):
        start = chance.uniform(0, jitter)
        _Node(simulation, trace, start, registry, places[number % mirrors] if places else None, result).begin()
    simulation.run()
    result.registry_bytes, result.registry_requests = registry.carried, registry.requests
    result.last = max(result.times)
    return result


class _Node:
    def __init__(
        self, simulation: Simulation, trace: Trace, start: float, registry: Link, mirror: Mirror | None, result: Result
    ) -> None:
        self._simulation, self._trace, self._start = simulation, trace, start
        self._registry, self._mirror, self._result = registry, mirror, result
        self._left = len(trace.steps)
        self._following: dict[int, list[int]] = {}
        for number, step in enumerate(trace.steps):
            self._following.setdefault(step.after, []).append(number)

    def begin(self) -> None:
        self._simulation.at(self._start, partial(self._follow, -1))

    def _follow(self, number: int) -> None:
        for following in self._following.get(number, []):
            wait = self._trace.steps[following].pause + _ROUND_TRIP
            self._simulation.at(self._simulation.now + wait, partial(self._request, following))

    def _request(self, number: int) -> None:
        step = self._trace.steps[number]
        done = partial(self._answered, number)
        if self._mirror is None:
            self._registry.send(step.size, done)
        else:
            self._mirror.send(step.key, step.size, done)

    def _answered(self, number: int) -> None:
        self._left -= 1
        self._follow(number)
        if not self._left:
            self._simulation.at(
                self._simulation.now + self._trace.rest, lambda: self._result.times.append(self._simulation.now)
            )


def record(snapshotter: str, registry: Registry, image: str, parent: Path) -> Trace:
    """Start the container on a node with empty caches, and return its requests."""
    with node(snapshotter, Path(), parent) as made:
        registry.transfers.clear()
        began = time.monotonic()
        made.pull(image)
        with subprocess.Popen(made.run(image, "pod", *_PYTHON), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"hello\n"
            ended = time.monotonic()
        return trace_of(list(registry.transfers), began, ended)


def layout_files_of(layout: Path) -> Files:
    """Return the files of a layout on disk that belong to its images."""
    names = [path for path in layout.glob("blobs/*/*") if path.is_file()]
    return {str(path.relative_to(layout)): path.read_bytes() for path in [layout / "index.json", *names]}


def recorded(options: "object", parent: Path) -> Iterator[tuple[str, Trace]]:
    """Yield a trace for each snapshotter."""
    tag = options.tag  # type: ignore[attr-defined] # of `arguments`
    layout = parent / "layout"
    source = f"oci:{options.image}:{tag}"  # type: ignore[attr-defined]
    subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", source, f"oci:{layout}:{tag}"], check=True)
    with running() as registry:
        registry.states_digests = True
        files = layout_files_of(layout)
        indexed, packed = (f"{registry.add(name, files)}:{tag}" for name in ("debian", "packed"))
        subprocess.run(ocifs("index", "push", indexed), check=True, stdout=subprocess.DEVNULL)
        publish(packed, parent, _PYTHON)
        for name, snapshotter, image in (
            (_OCIFS, "ocifs", indexed),
            (_PACK, "ocifs", packed),
            (_OVERLAYFS, "overlayfs", indexed),
        ):
            yield name, record(snapshotter, registry, image.removeprefix("docker://"), parent)


def main() -> None:
    """Record, simulate and print."""
    options = arguments(nodes=_FLEET, mirrors=20)
    with tempfile.TemporaryDirectory(prefix="benchmark", dir="/var/tmp") as name:
        traces = dict(recorded(options, Path(name)))
    results: dict[str, Result] = {}
    for name, trace in traces.items():
        size = sum(step.size for step in trace.steps) / 2**20
        print(f"{name}: {len(trace.steps)} requests, {size:.1f} MiB", file=sys.stderr)
        for way, mirrors in (("", 0), (f", {options.mirrors} mirrors", options.mirrors)):
            results[name + way] = simulate(trace, options.nodes, mirrors)
    figures: tuple[tuple[str, str, Callable[[Result], float]], ...] = (
        (f"time to the last of {options.nodes} starts", "s", lambda result: result.last),
        ("median time to a start", "s", lambda result: sorted(result.times)[len(result.times) // 2]),
        ("bytes from the registry for each node", "MiB", lambda result: result.registry_bytes / options.nodes / 2**20),
        ("requests to the registry", "thousands", lambda result: result.registry_requests / 1000),
    )
    for question, unit, figure in figures:
        taken = {name: [figure(result)] for name, result in results.items()}
        if question.startswith("time to the last") and options.nodes == _FLEET:
            taken |= {name: [seconds] for name, seconds in _PUBLISHED.items()}
        report(question, taken, _OCIFS, unit)


if __name__ == "__main__":
    main()
