"""The process of a snapshotter: it opens its directory, listens, cleans up periodically, and ends on SIGTERM.

Locks ensure that only one process uses a directory, and only one an address. The mounts outlive the process.
"""

import contextlib
import fcntl
import gc
import importlib
import logging
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Final

import grpc
from msgspec.structs import replace

from ocifs.errors import MountError, OcifsError, StoreError, printable_path, raise_if_short
from ocifs.mount.rate_limited_log import OneLineFormatter
from ocifs.mount.record import LOG, runtime_directory
from ocifs.pool import Pool, start
from ocifs.service import starting
from ocifs.service.connection import connect
from ocifs.service.notify import JournalHandler, is_journal, notify
from ocifs.service.protocol import KeeperSettings
from ocifs.snapshotter.database import Database, StepHook
from ocifs.snapshotter.directories import SnapshotDirectories
from ocifs.snapshotter.image_service import ImageService, make_image_server
from ocifs.snapshotter.images import Images
from ocifs.snapshotter.keychain import Keychain
from ocifs.snapshotter.keychain_socket import SOCKET, answering
from ocifs.snapshotter.metadata import Metadata
from ocifs.snapshotter.meter import Meter
from ocifs.snapshotter.pulls import Pulls
from ocifs.snapshotter.refutations import Refutations
from ocifs.snapshotter.server import Observe, make_server
from ocifs.snapshotter.settings import SnapshotterSettings
from ocifs.snapshotter.snapshots import Snapshots
from ocifs.sources.reference import Reference
from ocifs.sources.registry.access import Access
from ocifs.trusted_directory import TrustedDirectory
from ocifs.version import __version__

_ADDRESS_MAX: Final = 107
"""Bytes of a path in the address of a Unix socket (unix(7))."""
_GRACE: Final = 10.0
"""Seconds that requests may take to finish after SIGTERM."""
_CANCELLING: Final = 2.0
"""Seconds that they may take to end once they are cancelled."""
_THREADS: Final = 256
"""Most requests at once; each may wait for a registry. Threads are started as they are needed."""
_HOUSEKEEPING: Final = 30.0
"""Maximum seconds between two searches for refuted and idle mounts."""
_MODULES: Final = (
    "ocifs.api.mounting",
    "ocifs.blobs.caching_source",
    "ocifs.compression.codecs",
    "ocifs.erofs.writer",
    "ocifs.indexes.selection",
    "ocifs.layer.verification",
    "ocifs.service.protocol",
    "ocifs.sources.registry.source",
)
"""Modules that the first mount would have to import otherwise."""
_log = logging.getLogger(__name__)

AccessOf = Callable[[Reference], Access]


@contextlib.contextmanager
def open_snapshots(
    settings: SnapshotterSettings, access: AccessOf | None = None, step: StepHook = lambda name: None
) -> Iterator[Snapshots]:
    """Open the directory of a snapshotter, which is locked until the end of the block.

    Raises:
        StoreError: It is in use, not safe from other users, or damaged.
    """
    shown = printable_path(str(settings.root))
    with contextlib.ExitStack() as stack:
        try:
            root = TrustedDirectory.open(settings.root, make=True)
            stack.callback(os.close, _lock(root, "lock", f"the directory {shown}"))
            metadata = Metadata(stack.enter_context(contextlib.closing(Database(root, step))))
            directories = SnapshotDirectories(root, step)
            directories.check(metadata)
            images = Images(root, settings, metadata, access, step)
            stack.callback(images.close)
        except OSError as error:
            raise_if_short(error)
            raise StoreError(f"cannot use {shown}: {error.strerror}: choose a directory of root with --root") from None
        yield Snapshots(metadata, directories, images, Pulls(settings, images, access, step), step)


def serve(settings: SnapshotterSettings, access: AccessOf | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Raises OcifsError."""
    for module in _MODULES:
        importlib.import_module(module)
    stop = threading.Event()
    socket = str(_keychain_socket(settings))
    keychain = Keychain(settings.options.access, socket) if settings.image_service else None
    settings = _logging(settings)
    with open_snapshots(settings, access or (keychain.access if keychain else None)) as snapshots:
        if settings.service:
            _start_service(settings)
        meter = Meter(snapshots)
        refutations = Refutations(snapshots.images, snapshots.metadata, settings.containerd, meter.observe_refuted)
        with (
            listening(settings, snapshots, meter.observe),
            _image_service(settings, keychain),
            ended_by_dead_threads(stop),
        ):
            gc.freeze()
            gc.set_threshold(700, 10, 10)  # the command line has set it so high that it almost never runs
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            threads = [
                start(snapshots.images.mounting.probe),
                start(lambda: _keep_house(snapshots, refutations, settings, stop)),
                start(lambda: meter.run(stop)),
            ]
            notify("READY=1")
            _log.info("listening on %s", printable_path(str(settings.address)))
            stop.wait()
            notify("STOPPING=1")
        for thread in threads:
            thread.join(_GRACE)


@contextlib.contextmanager
def ended_by_dead_threads(stop: threading.Event) -> Iterator[None]:
    """Set `stop` if a thread of gRPC dies, for example for lack of memory: it would leave requests without an answer.

    Raises:
        MountError: At the end, if that has happened. systemd then starts the process again.
    """
    errors: list[BaseException | None] = []

    def note(arguments: threading.ExceptHookArgs) -> None:
        errors.append(arguments.exc_value)
        stop.set()

    before, threading.excepthook = threading.excepthook, note
    try:
        yield
    finally:
        threading.excepthook = before
    if errors:
        why = printable_path(f"{type(errors[0]).__name__}: {errors[0]}")
        raise MountError(f"a thread of gRPC has ended: {why}: start the snapshotter again, as its unit does")


@contextlib.contextmanager
def listening(
    settings: SnapshotterSettings, snapshots: Snapshots, observe: Observe = lambda *_: None
) -> Iterator[None]:
    """Answer containerd on the address of the settings. Raises as `listening_at`."""
    with listening_at(settings.address, partial(make_server, snapshots, observe)):
        yield


@contextlib.contextmanager
def listening_at(address: Path, make: Callable[[str, Executor], grpc.Server]) -> Iterator[None]:
    """Answer on the address, a socket of mode 0600; at the end, let requests finish, and remove it.

    `make` makes a server for an address of gRPC and the threads of its requests. gRPC does not survive an exception
    when it submits a request, so one thread runs from the start, and requests wait if the system refuses another.

    Raises:
        MountError: The address cannot be used.
        ShortageError: The system refuses the threads.
    """
    threads = Pool(_THREADS, waits=True)
    address = address.absolute()
    shown = printable_path(str(address))
    if len(os.fsencode(address)) > _ADDRESS_MAX:
        raise MountError(f"cannot listen on {shown}: the path of a socket has at most {_ADDRESS_MAX} bytes")
    try:
        directory = TrustedDirectory.open(address.parent, make=True)
        lock = _lock(directory, f"{address.name}.lock", f"the address {shown}")
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(address).st_mode):
                raise MountError(f"cannot listen on {shown}: it exists, and is not a socket: remove it")
            os.unlink(address)
        before = os.umask(0o177)
        try:
            server = make(f"unix:{address}", threads)
        finally:
            os.umask(before)
        os.chmod(address, 0o600)
        threads.start()
        server.start()
    except (OSError, RuntimeError) as error:
        raise_if_short(error)
        why = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise MountError(f"cannot listen on {shown}: {printable_path(why or '?')}") from None
    try:
        yield
    finally:
        _stop(server)
        threads.shutdown(wait=False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        os.close(lock)


def _stop(server: grpc.Server) -> None:
    """Let requests finish for a time, then cancel them."""
    with contextlib.suppress(RuntimeError):  # there is no thread to cancel them; the end of this process does that
        server.stop(_GRACE)
    if server.wait_for_termination(_GRACE + _CANCELLING):
        _log.warning("requests are still running after %g s", _GRACE + _CANCELLING)


@contextlib.contextmanager
def _image_service(settings: SnapshotterSettings, keychain: Keychain | None) -> Iterator[None]:
    """Forward CRI's image service to containerd, and let mounts ask for its credentials, if the settings say where."""
    if settings.image_service is None or keychain is None:
        yield
        return
    service = ImageService(f"unix:{settings.containerd}", keychain)
    with (
        answering(_keychain_socket(settings), keychain),
        contextlib.closing(service),
        listening_at(settings.image_service, make_image_server(service)),
    ):
        yield


def _keychain_socket(settings: SnapshotterSettings) -> Path:
    return settings.root.absolute() / SOCKET


def _logging(settings: SnapshotterSettings) -> SnapshotterSettings:
    """Log to the file of the settings, the journal or stderr, also the warnings of images. Raises MountError."""
    log = settings.mounting.log
    try:
        handler = JournalHandler() if log is None and is_journal(2) else _open_handler(log)
    except OSError as error:
        raise MountError(f"cannot write the log {printable_path(log or '?')}: {error.strerror}") from None
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    return replace(settings, options=replace(settings.options, warn=_log.warning, tell=_log.info))


def _open_handler(log: str | None) -> logging.Handler:
    """Return a handler that writes to a file, or to stderr. Raises OSError."""
    handler = logging.StreamHandler() if log is None else logging.FileHandler(log)
    handler.setFormatter(OneLineFormatter(f"%(asctime)s ocifs[{os.getpid()}] %(levelname)s: %(message)s"))
    return handler


def _lock(directory: TrustedDirectory, name: str, what: str) -> int:
    """Lock a file for as long as this process lives. Raises OSError, StoreError."""
    lock = directory.open_file(name, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StoreError(f"another ocifs snapshotter uses {what}: stop it first") from None
    return lock


def _start_service(settings: SnapshotterSettings) -> None:
    """Start the service of ocifs unless it runs; without it, each mount gets a daemon of its own."""
    if os.geteuid() or settings.mounting.engine == "fuse":
        return
    try:
        if (connection := connect()) is None:
            journal = is_journal(2)
            log = None if journal else str(runtime_directory().path / LOG)
            starting.start(KeeperSettings(log=log, journal=journal, metrics=settings.metrics))
            return
        connection.close()
        if (running := starting.ping()).version != __version__:
            _log.info("upgrading the service of ocifs %s", printable_path(running.version))
            starting.upgrade()
    except OcifsError as error:
        _log.warning("no service of ocifs, so mounts end with their daemons: %s", error)
        return
    if settings.metrics not in {None, running.settings.metrics}:
        _log.warning("the service of ocifs runs already, so its own option --metrics counts")


def _keep_house(
    snapshots: Snapshots, refutations: Refutations, settings: SnapshotterSettings, stop: threading.Event
) -> None:
    """Remove leftovers of earlier processes; periodically report refuted images, and unmount idle ones."""
    pause = min(_HOUSEKEEPING, settings.idle / 4 or _HOUSEKEEPING)
    try:
        snapshots.cleanup()
    except (OcifsError, OSError, MemoryError) as error:
        _log.warning("%s", error)
    while not stop.wait(pause):
        try:
            refutations.report()
            snapshots.images.unmount_unused()
        except (OcifsError, OSError, MemoryError) as error:
            _log.warning("%s", error)
