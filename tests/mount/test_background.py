"""What a daemon does in the background: here only what is computed (tests/mounted/test_registry.py has the rest)."""

import errno
import logging
import time
from collections.abc import Callable
from queue import Queue

import pytest

from ocifs.blobs.download import finish
from ocifs.errors import InvalidImageError, ShortageError
from ocifs.image.opening import open_image
from ocifs.layer.layer import Layer
from ocifs.layer.lazy_blob import LazyBlob
from ocifs.mount.background import Background
from ocifs.options import Options
from ocifs.reader import BlobReader
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.indexes.test_on_demand import cached, verified
from tests.indexes.windowed import BASE, files, publish
from tests.locking import Holder
from tests.registry import Registry
from tests.waiting import wait_for


class _Defective(Layer):
    """A layer that raises an unexpected error in the thread."""

    def __init__(self) -> None:
        """Have no blob."""


class _Short(Layer):
    """A layer for which files, threads or memory suffice at the third attempt only; then it proves to be invalid."""

    def __init__(self) -> None:
        self.errors = [OSError(errno.EMFILE, "too many"), ShortageError("no more threads"), InvalidImageError("bad")]

    @property
    def blob(self) -> BlobReader:  # type: ignore[override]
        raise self.errors.pop(0)

    def conclude(self, refuted: str | None = None) -> None:
        """Be refuted."""


def test_a_shortage_ends_nothing() -> None:
    told: Queue[str | None] = Queue()
    background = Background([_Short()], None, told.put)
    background.retry = 0.01
    background.start()
    assert told.get(timeout=20) == "bad"


def test_a_defect_ends_the_thread_with_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    told: list[object] = []
    with caplog.at_level(logging.ERROR):
        Background([_Defective()], None, lambda *news: told.append(news)).start()
        deadline = time.monotonic() + 20
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [message.partition(":")[0] for message in caplog.messages] == ["prefetch"]
    assert "AttributeError" in caplog.messages[0]
    assert told == []


@pytest.mark.usefixtures("alone")
def test_processes_that_share_a_layer_verify_it_once(registry: Registry, store: Store) -> None:
    reference = registry.add("app", files())
    publish(registry)
    with open_image(reference, Options(store=store)) as image, open_image(reference, Options(store=store)) as other:
        (layer,) = image.layers
        with Holder(cached(store, Digest.of(BASE.blob)), of_process=True):
            told: list[str | None] = []
            background = Background([layer], None, told.append)
            background.start()
            verified(other)
            assert isinstance(other.layers[0].blob, LazyBlob)
            finish(other.layers[0].blob)
            assert layer.verification.at is None
        wait_for(lambda: told == [None])
        assert layer.verification.is_verified
        assert layer.partial == []
        assert isinstance(layer.blob, LazyBlob)
        assert layer.blob.fetched == 0


class _Arriving:
    """A hot pack on its way."""

    def is_arriving(self) -> bool:
        return True

    def verify(self, pause: Callable[[int], None]) -> None:
        """Do nothing."""

    def drop(self) -> None:
        """Do nothing."""


def test_the_link_is_left_to_a_pack_that_arrives() -> None:
    """As to a reader that waits now."""
    without, arriving = (Background([], None, lambda news: None, pack=pack) for pack in (None, _Arriving()))
    now = time.monotonic()
    assert without._last_wait() <= now
    assert arriving._last_wait() >= now
