"""The process that serves metrics in the Prometheus format: `python -m ocifs.service.metrics LISTENER KEEPER`.

It alone imports prometheus_client, and the keeper starts it only if metrics are on. At each request it reads the
records and counters of all mounts that have a keeper. LISTENER is the descriptor of its socket, and KEEPER that of a
pipe which the keeper holds open: the process ends with its keeper.
"""

import http.server
import itertools
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from ocifs.errors import MountError, printable_path
from ocifs.mount.counters import BUCKETS, Numbers
from ocifs.mount.record import ListedMount, list_mounts, runtime_directory
from ocifs.service.snapshotter_numbers import BOUNDS as REQUEST_BOUNDS
from ocifs.service.snapshotter_numbers import read_numbers
from ocifs.version import __version__

_Row = tuple[str, str, Callable[[Numbers], float]]
_SECONDS: Final = 5.0
"""Seconds that a client may take to send its request, and to take the answer."""
_COUNTERS: Final[tuple[_Row, ...]] = (
    ("reads", "Reads that the kernel requested.", lambda numbers: numbers.reads),
    ("read_bytes", "Bytes of answered reads.", lambda numbers: numbers.read_bytes),
    ("cache_hits", "Reads answered without decoding.", lambda numbers: numbers.cache_hits),
    ("spans_decoded", "Spans that were verified and decoded.", lambda numbers: numbers.spans_decoded),
    ("spans_taken", "Spans that another mount had decoded.", lambda numbers: numbers.spans_taken),
    ("fetched_bytes", "Bytes fetched from a registry.", lambda numbers: numbers.bytes_fetched),
    ("restarts", "Restarts of the process that serves the mount.", lambda numbers: numbers.restarts),
)
_GAUGES: Final[tuple[_Row, ...]] = (
    ("background_bytes", "Bytes of the layers that are fetched on demand.", lambda n: n.background_total),
    ("background_done_bytes", "Bytes of these that are in the cache.", lambda n: n.background_done),
    ("layers_verified", "Layers that are verified.", lambda n: n.layers_verified),
)


class MountCollector(Collector):
    """Collects the numbers of all mounts with a keeper."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        mounts = _kept_mounts()
        info = GaugeMetricFamily(
            "ocifs_mount_info", "A mount with a keeper.", labels=["mountpoint", "image", "digest", "version"]
        )
        up = _gauge("up", "1 if a process serves the mount, 0 if it is restarting or given up.")
        start = _gauge("start_time_seconds", "When it was mounted, since the epoch.")
        layers = _gauge("layers", "Layers of the image.")
        refuted = _gauge("refuted", "1 if verification has failed, so that every read fails.")
        for mount in mounts:
            label = printable_path(mount.mountpoint)
            info.add_metric([label, printable_path(mount.image), mount.digest, __version__], 1)
            up.add_metric([label], mount.state in {"mounted", "elsewhere"})
            start.add_metric([label], mount.since)
            layers.add_metric([label], len(mount.layers))
            refuted.add_metric([label], mount.refuted is not None)
        yield from (info, up, start, layers, refuted)
        yield from _of_snapshotter()
        yield from _of_numbers([(printable_path(m.mountpoint), m.numbers) for m in mounts if m.numbers is not None])


def _kept_mounts() -> list[ListedMount]:
    """Return one mount for each mountpoint: the last one that is served, else the last one."""
    try:
        listed = [mount for mount in list_mounts() if mount.kept is not None]
    except (MountError, OSError):
        return []
    return [*{mount.mountpoint: mount for mount in sorted(listed, key=lambda each: each.state == "mounted")}.values()]


def _of_numbers(mounts: list[tuple[str, Numbers]]) -> Iterator[Metric]:
    for name, text, value in _COUNTERS:
        counter = CounterMetricFamily(f"ocifs_mount_{name}", text, labels=["mountpoint"])
        for label, numbers in mounts:
            counter.add_metric([label], value(numbers))
        yield counter
    for name, text, value in _GAUGES:
        gauge = _gauge(name, text)
        for label, numbers in mounts:
            gauge.add_metric([label], value(numbers))
        yield gauge
    errors = CounterMetricFamily("ocifs_mount_read_errors", "Failed reads by cause.", labels=["mountpoint", "cause"])
    latency = HistogramMetricFamily("ocifs_mount_read_seconds", "Time from request to answer.", labels=["mountpoint"])
    for label, numbers in mounts:
        for cause, count in numbers.errors.items():
            errors.add_metric([label, cause], count)
        bounds = [*map(str, BUCKETS), "+Inf"]
        counts = itertools.accumulate(numbers.latency)
        latency.add_metric([label], [*zip(bounds, counts, strict=True)], numbers.read_seconds)
    yield from (errors, latency)


def _of_snapshotter() -> Iterator[Metric]:
    """Yield the metrics of the snapshotter, if one runs with this runtime directory."""
    try:
        numbers = read_numbers(runtime_directory())
    except MountError:
        return
    if numbers is None:
        return
    prefix = "ocifs_snapshotter"
    snapshots = GaugeMetricFamily(f"{prefix}_snapshots", "Snapshots; remote ones have no files.", labels=["kind"])
    for kind, count in numbers.snapshots.items():
        snapshots.add_metric([kind], count)
    yield snapshots
    yield GaugeMetricFamily(f"{prefix}_images", "Images that are mounted for containers.", numbers.images)
    refuted = CounterMetricFamily(f"{prefix}_refuted_images", "Images that were refuted.")
    refuted.add_metric([], numbers.refuted)
    yield refuted
    requests = CounterMetricFamily(f"{prefix}_requests", "Requests of containerd.", labels=["method", "status"])
    seconds = HistogramMetricFamily(f"{prefix}_request_seconds", "Time of a request.", labels=["method"])
    for method, each in numbers.methods.items():
        for status, count in each.statuses.items():
            requests.add_metric([method, status], count)
        sums = itertools.accumulate(each.buckets)
        bounds = [*map(str, REQUEST_BOUNDS), "+Inf"]
        seconds.add_metric([method], list(zip(bounds, sums, strict=False)), each.seconds)
    yield from (requests, seconds)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"ocifs_mount_{name}", text, labels=["mountpoint"])


def render() -> bytes:
    """Return all metrics in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MountCollector())
    return generate_latest(registry)


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = _SECONDS

    def do_GET(self) -> None:
        """Answer with the metrics."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "metrics are at /metrics")
            return
        content = render()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as http.server names it
        """Log nothing."""

    def address_string(self) -> str:
        """Return a name for logs; the client of a Unix socket has no address."""
        return "client"


def main(arguments: list[str]) -> int:
    """Serve requests one by one until the keeper ends; return the exit status."""
    listener, keeper = socket.socket(fileno=int(arguments[0])), int(arguments[1])
    listener.settimeout(_SECONDS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(keeper, select.POLLIN)
    while keeper not in dict(poll.poll()):
        try:
            connection, address = listener.accept()
        except OSError:
            continue
        with connection:
            connection.settimeout(_SECONDS)
            try:
                _Handler(connection, address or ("", 0), None)  # type: ignore[arg-type] # the handler uses no server
            except OSError:  # the client is gone, or too slow
                continue
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
