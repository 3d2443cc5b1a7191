"""The store: whole entries or none, built once, within a bound, and never in the way."""

import errno
import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from ocifs.errors import OcifsError, ShortageError, StoreError
from ocifs.store import Kind, Store, StoredFile, Writer, default_directory
from ocifs.store.entry import file_name
from tests.faults import AT_LEAST, EQUAL, HAS_BITS, refuse, refusing, within
from tests.locking import Holder

KIND = Kind("thing", 1)
SEALED = KIND._replace(sealed=True)
SUBJECT = "sha256:" + "ab" * 32


def writing(payload: bytes, built: list[bytes] | None = None) -> Callable[[Writer], None]:
    def build(out: Writer) -> None:
        if built is not None:
            built.append(payload)
        for place in range(0, len(payload), 1000):
            out.write(payload[place : place + 1000])

    return build


def content(entry: StoredFile) -> bytes:
    data = entry.pread(entry.size, 0)
    entry.close()
    return data


def path_of(directory: Path) -> Path:
    return directory / "entries" / f"thing1-{SUBJECT.replace(':', '-')}"


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    built: list[bytes] = []
    store = Store(tmp_path)
    for _ in range(3):
        assert content(store.get(KIND, SUBJECT, writing(b"payload", built))) == b"payload"
    assert len(built) == 1
    assert [path.name for path in (tmp_path / "entries").iterdir()] == [path_of(tmp_path).name]


def test_an_entry_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for payload in (b"one", b"three"):
        assert content(store.get(KIND, SUBJECT, writing(payload), anew=True)) == payload
        assert content(store.get(KIND, SUBJECT, writing(b"other"))) == payload
    assert [path.name for path in (tmp_path / "entries").iterdir()] == [path_of(tmp_path).name]


def test_another_version_or_subject_is_another_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    content(store.get(KIND, SUBJECT, writing(b"one")))
    assert content(store.get(Kind("thing", 2), SUBJECT, writing(b"two"))) == b"two"
    assert content(store.get(KIND, "sha256:" + "cd" * 32, writing(b"three"))) == b"three"


@pytest.mark.parametrize("kind", [KIND, SEALED])
def test_any_changed_byte_and_any_cut_means_building_anew(tmp_path: Path, kind: Kind) -> None:
    store = Store(tmp_path)
    content(store.get(kind, SUBJECT, writing(b"payload")))
    path = path_of(tmp_path)
    whole = path.read_bytes()
    damaged = [whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in range(len(whole))]
    damaged += [whole[:end] for end in range(len(whole))] + [whole + b"x"]
    for data in damaged:
        path.write_bytes(data)
        assert store.load(kind, SUBJECT) is None
        assert content(store.get(kind, SUBJECT, writing(b"new"))) == b"new"


def test_an_entry_of_another_subject_is_not_believed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = "sha256:" + "cd" * 32
    content(store.get(KIND, other, writing(b"other")))
    path_of(tmp_path).write_bytes((tmp_path / "entries" / f"thing1-{other.replace(':', '-')}").read_bytes())
    assert content(store.get(KIND, SUBJECT, writing(b"mine"))) == b"mine"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(out: Writer) -> None:
        out.write(b"half")
        raise ValueError("no")

    before = len(os.listdir("/proc/self/fd"))
    for store in (Store(tmp_path), Store(None)):
        with pytest.raises(ValueError, match="no"):
            store.get(KIND, SUBJECT, fail)
    assert list((tmp_path / "entries").iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def _build_slowly(directory: str, barrier: Barrier, counter: str) -> None:
    def build(out: Writer) -> None:
        with Path(counter).open("a") as file:
            file.write("built\n")
        time.sleep(0.2)
        out.write(b"payload")

    barrier.wait()
    assert content(Store(Path(directory)).get(KIND, SUBJECT, build)) == b"payload"


def test_processes_build_an_entry_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    arguments = (str(tmp_path / "cache"), barrier, str(tmp_path / "count"))
    processes = [context.Process(target=_build_slowly, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "built\n"


def test_what_a_killed_builder_left_is_taken_over(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from ocifs.store import *\n"
        "def build(out):\n  out.write(b'half'); print('building', flush=True); time.sleep(60)\n"
        f"Store(Path(sys.argv[1])).get(Kind('thing', 1), '{SUBJECT}', build)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"building\n"
        process.send_signal(signal.SIGKILL)
    assert path_of(tmp_path).with_name(path_of(tmp_path).name + ".tmp").exists()
    assert content(Store(tmp_path).get(KIND, SUBJECT, writing(b"whole"))) == b"whole"
    assert [path.name for path in (tmp_path / "entries").iterdir()] == [path_of(tmp_path).name]


SLOW = Kind("slow", 1, checked=False, begun="begun")


@pytest.mark.parametrize("kind", [KIND, SLOW])
def test_an_entry_whose_builder_is_stopped_is_built_beside_it(tmp_path: Path, kind: Kind) -> None:
    """Every thread gets the entry, with one warning; the builder goes on later, and nothing else is left."""
    said: list[str] = []
    store = Store(tmp_path, warn=said.append)
    name = file_name(kind._replace(name=kind.begun), SUBJECT) if kind.begun else f"{file_name(kind, SUBJECT)}.tmp"
    with Holder(tmp_path / "entries" / name) as builder, ThreadPoolExecutor(2) as threads:
        builder.stop()
        got = [threads.submit(store.get, kind, SUBJECT, writing(b"payload"), anew=True) for _ in range(2)]
        assert [content(each.result()) for each in got] == [b"payload"] * 2
        assert said == [
            f"process {builder.pid} is stopped, so what it puts into the cache is built again here: "
            "continue it (kill -CONT) or end it"
        ]
        assert sorted(os.listdir(tmp_path / "entries")) == sorted([name, file_name(kind, SUBJECT)])
        assert content(store.get(kind, SUBJECT, writing(b"other"))) == b"payload"


def test_a_wait_for_a_builder_can_be_ended(tmp_path: Path) -> None:
    def check() -> None:
        raise OcifsError("interrupted")

    store = Store(tmp_path)
    with Holder(tmp_path / "entries" / f"{path_of(tmp_path).name}.tmp"), pytest.raises(OcifsError, match="interrupted"):
        store.get(KIND, SUBJECT, writing(b"payload"), check=check)


def test_what_was_begun_is_gone_on_with(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def build(out: Writer, more: bytes, error: Exception | None = None) -> None:
        out.write(more)
        if error:
            raise error

    for more in (b"a", b"b"):
        with pytest.raises(ValueError, match="no"):
            store.get(SLOW, SUBJECT, lambda out: build(out, more, ValueError("no")))  # noqa: B023
    assert store.load(SLOW, SUBJECT) is None
    assert [(entry.kind, entry.subject, entry.size) for entry in store.entries()] == [("begun1", SUBJECT, 2)]
    assert content(store.get(SLOW, SUBJECT, lambda out: build(out, b"c"))) == b"abc"
    assert [entry.kind for entry in store.entries()] == ["slow1"]


def test_what_was_begun_is_shared_by_those_who_expect_the_same_size(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def give_up(out: Writer) -> None:
        out.write(b"abc")
        raise ValueError("no")

    def build(out: Writer, size: int) -> None:
        out.cut(size)
        out.write(b"abc"[out.size :])
        if size < 3:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.get(SLOW, SUBJECT, give_up, size=3)
    with pytest.raises(ValueError, match="no"):
        store.get(SLOW, SUBJECT, lambda out: build(out, 1), size=1)
    assert sorted(entry.size for entry in store.entries()) == [3, 3]
    assert content(store.get(SLOW, SUBJECT, lambda out: out.write(b"d"), size=3)) == b"abcd"


def test_what_was_begun_goes_when_it_is_taken_back(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def give_up(out: Writer) -> None:
        out.write(b"x")
        out.cut(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.get(SLOW, SUBJECT, give_up)
    assert list((tmp_path / "entries").iterdir()) == []


def test_what_was_begun_makes_room_as_an_entry_but_not_under_way(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left = tmp_path / "entries" / f"begun1-sha256-{0:064x}"
    left.write_bytes(bytes(8192))

    def build(out: Writer) -> None:
        out.write(bytes(4096))
        assert Store(tmp_path).prune(0) == 8192

    assert content(store.get(SLOW, SUBJECT, build)) == bytes(4096)
    assert not left.exists()
    assert [entry.kind for entry in store.entries()] == ["slow1"]


def test_a_full_disk_moves_the_entry_into_memory(small_disk: Path) -> None:
    warnings: list[str] = []
    store = Store(small_disk, warn=warnings.append)
    payload = os.urandom(300_000)
    for _ in range(2):
        assert content(store.get(KIND, SUBJECT, writing(payload))) == payload
    assert len(warnings) == 1
    assert "No space left" in warnings[0]
    assert list((small_disk / "entries").iterdir()) == []


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EPERM])
def test_a_disk_that_fails_moves_the_entry_into_memory(tmp_path: Path, code: int) -> None:
    def build(out: Writer) -> None:
        """Write to a file on a disk that fails behind its first 3000 bytes."""
        refuse("pwrite", code, (0, EQUAL, out.fd), (3, AT_LEAST, 3000))
        writing(bytes(5000))(out)

    warnings: list[str] = []
    store = Store(tmp_path, warn=warnings.append)
    assert content(within(lambda: store.get(KIND, SUBJECT, build))) == bytes(5000)
    assert len(warnings) == 1
    assert os.strerror(code) in warnings[0]
    assert list((tmp_path / "entries").iterdir()) == []


@pytest.mark.parametrize("call", ["pwrite", "fsync", "rename"])
def test_a_lack_of_memory_moves_nothing_into_memory(tmp_path: Path, call: str) -> None:
    warnings: list[str] = []
    store = Store(tmp_path, warn=warnings.append)
    with pytest.raises(ShortageError, match="out of memory"):
        refusing(call, errno.ENOMEM, lambda: store.get(KIND, SUBJECT, writing(b"payload")))
    assert warnings == []
    assert list((tmp_path / "entries").iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_a_directory_that_others_may_write_is_not_used(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    directory.chmod(mode)
    warnings: list[str] = []
    store = Store(directory, warn=warnings.append)
    assert content(store.get(KIND, SUBJECT, writing(b"payload"))) == b"payload"
    assert len(warnings) == 1
    assert str(directory) in warnings[0]
    assert list(directory.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    warnings: list[str] = []
    store = Store(tmp_path / "file" / "cache", warn=warnings.append)
    assert content(store.get(KIND, SUBJECT, writing(b"payload"))) == b"payload"
    assert len(warnings) == 1
    assert store.entries() == []
    assert store.prune(0) == 0


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    subjects = [f"sha256:{n:064x}" for n in range(4)]
    for age, subject in enumerate(subjects):
        content(store.get(KIND, subject, writing(bytes(1000))))
        name = tmp_path / "entries" / f"thing1-{subject.replace(':', '-')}"
        os.utime(name, (1000 + age, 1000 + age))
    used = store.load(KIND, subjects[0])  # used again, so the second is now the oldest
    assert used is not None
    size = store.entries()[0].size
    assert store.prune(2 * size) == 2 * size
    assert {entry.subject for entry in store.entries()} == {subjects[0], subjects[3]}
    store.prune(0)
    assert store.entries() == []
    assert content(used) == bytes(1000)  # who has it open keeps it


def test_the_bound_is_kept_while_building(tmp_path: Path) -> None:
    store = Store(tmp_path, max_size=5000)
    for number in range(10):
        content(store.get(KIND, f"sha256:{number:064x}", writing(bytes(2000))))
    assert sum(entry.size for entry in store.entries()) <= 5000


def test_pruning_removes_unlocked_temporary_files(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left = path_of(tmp_path).with_name(f"{path_of(tmp_path).name}.tmp")
    left.write_bytes(b"12345")
    assert store.prune(1 << 30) == 5
    assert not left.exists()


def test_an_entry_that_cannot_be_named_is_used_all_the_same(tmp_path: Path) -> None:
    warnings: list[str] = []
    store = Store(tmp_path, warn=warnings.append)
    gc.collect()  # files of earlier tests
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        entry = refusing("rename", errno.EROFS, lambda: store.get(KIND, SUBJECT, writing(b"payload")))
        assert content(entry) == b"payload"
    assert len(warnings) == 1
    assert "Read-only" in warnings[0]
    assert len(os.listdir("/proc/self/fd")) == before
    assert content(store.get(KIND, SUBJECT, writing(b"anew"))) == b"anew"


def test_a_directory_in_the_way_is_no_entry(tmp_path: Path) -> None:
    warnings: list[str] = []
    store = Store(tmp_path, warn=warnings.append)
    path_of(tmp_path).mkdir()
    assert content(store.get(KIND, SUBJECT, writing(b"payload"))) == b"payload"
    assert len(warnings) == 1


def test_what_may_not_have_reached_the_disk_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Input/output error"):
        refusing("fsync", errno.EIO, lambda: Store(tmp_path).get(KIND, SUBJECT, writing(b"payload")))
    assert list((tmp_path / "entries").iterdir()) == []


def test_an_entry_that_cannot_be_read_is_built_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    content(store.get(KIND, SUBJECT, writing(b"payload")))
    assert refusing("pread", errno.EIO, lambda: store.load(KIND, SUBJECT)) is None
    entry = refusing("pread", errno.EIO, lambda: store.get(KIND, SUBJECT, writing(b"anew")))
    assert content(entry) == b"anew"


def test_threads_build_an_entry_once(tmp_path: Path) -> None:
    built: list[bytes] = []
    together = threading.Barrier(6)

    def get(_: int) -> bytes:
        together.wait()
        return content(Store(tmp_path).get(KIND, SUBJECT, writing(b"payload", built)))

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(get, range(6))) == {b"payload"}
    assert len(built) == 1


def test_who_waits_for_a_builder_that_fails_builds(tmp_path: Path) -> None:
    building = threading.Event()

    def fail(out: Writer) -> None:
        building.set()
        time.sleep(0.1)
        raise ValueError("no")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(Store(tmp_path).get, KIND, SUBJECT, fail)
        building.wait()
        second = threads.submit(Store(tmp_path).get, KIND, SUBJECT, writing(b"payload"))
        assert isinstance(first.exception(), ValueError)
        assert content(second.result()) == b"payload"
    assert [path.name for path in (tmp_path / "entries").iterdir()] == [path_of(tmp_path).name]


def test_pruning_leaves_a_builder_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def build(out: Writer) -> None:
        out.write(b"half ")
        assert store.prune(0) == 0
        out.write(b"whole")

    assert content(store.get(KIND, SUBJECT, build)) == b"half whole"
    assert store.entries()[0].subject == SUBJECT


def test_entries_are_listed_least_recently_used_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, kind in enumerate((Kind("layer", 1), Kind("tree", 2))):
        content(store.get(kind, f"sha512:{number:0128x}", writing(bytes(100))))
    later, earlier = (tmp_path / "entries").iterdir()
    os.utime(later, (2000, 2000))
    os.utime(earlier, (1000, 1000))
    first, second = store.entries()
    assert (first.used, second.used) == (1000, 2000)
    assert {first.kind, second.kind} == {"layer1", "tree2"}
    assert {first.subject, second.subject} == {f"sha512:{number:0128x}" for number in range(2)}
    assert first.size == second.size > 100


def test_a_store_of_no_directory_keeps_nothing() -> None:
    built: list[bytes] = []
    store = Store(None, warn=pytest.fail)
    for _ in range(2):
        entry = store.get(KIND, SUBJECT, writing(b"payload", built))
        assert bytes(entry.map()) == b"payload"
        entry.close()
    assert len(built) == 2
    assert (store.load(KIND, SUBJECT), store.entries(), store.prune(0)) == (None, [], 0)


def test_use_does_not_change_when_an_entry_was_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.get(KIND, SUBJECT, writing(b"payload")).close()
    (path,) = (tmp_path / "entries").iterdir()
    os.utime(path, (1000, 1000))
    entry = store.load(KIND, SUBJECT)
    assert entry is not None
    assert os.fstat(entry.fd).st_mtime == 1000
    assert os.fstat(entry.fd).st_atime > 1000
    entry.close()


@pytest.mark.parametrize("place", ["built", "built in memory", "opened"])
def test_a_sealed_entry_is_a_copy_that_nothing_changes(tmp_path: Path, place: str) -> None:
    payload = random.Random(place).randbytes(3_000_000)
    store = Store(None if place == "built in memory" else tmp_path)
    if place == "opened":
        store.get(SEALED, SUBJECT, writing(payload)).close()
    entry = store.get(SEALED, SUBJECT, writing(b"anew") if place == "opened" else writing(payload))
    if store.directory is not None:
        path_of(tmp_path).write_bytes(b"")
    assert entry.size == len(payload)
    assert entry.pread(entry.size, 0) == payload
    mapped = entry.map()
    assert bytes(mapped) == payload
    with pytest.raises(PermissionError):
        os.pwrite(entry.fd, b"other", 0)
    for size in (0, len(payload) + 1):
        with pytest.raises(PermissionError):
            os.truncate(entry.fd, size)
    mapped.close()
    entry.close()


def test_a_kernel_that_cannot_seal_against_execution_seals_the_rest(tmp_path: Path) -> None:
    """As Linux before 6.3, which takes no flag that it does not know."""
    unknown = (1, HAS_BITS, ~(os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) & 0xFFFFFFFF)
    get = partial(Store(tmp_path).get, SEALED, SUBJECT, writing(b"payload"))
    entry = refusing("memfd_create", errno.EINVAL, get, unknown)
    with pytest.raises(PermissionError):
        os.truncate(entry.fd, 0)
    assert content(entry) == b"payload"


_GETS = """
import sys
from pathlib import Path
from ocifs.store import Kind, Store
Store(Path(sys.argv[1])).get(Kind("thing", 1, sealed=True), sys.argv[2], lambda out: out.write(bytes(3_000_000)))
"""


def test_a_sealed_entry_that_memory_does_not_take_is_over_a_limit(tmp_path: Path) -> None:
    get = [sys.executable, "-c", _GETS, str(tmp_path), SUBJECT]
    subprocess.run(get, check=True)
    ran = subprocess.run(["prlimit", "--fsize=1000000", *get], check=False, stderr=subprocess.PIPE, text=True)
    assert "LimitError: cache: cannot copy an entry into memory: File too large: allow more" in ran.stderr


def test_what_the_disk_has_lost_at_once_is_an_error(tmp_path: Path) -> None:
    def build(out: Writer) -> None:
        out.write(b"payload")
        os.pwrite(out.fd, b"10", 3)

    with pytest.raises(StoreError, match="reads back differently"):
        Store(tmp_path).get(SEALED, SUBJECT, build)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HOME": "/home/u"}, "/home/u/.cache/ocifs"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/c"}, "/c/ocifs"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/ocifs"),
        ({}, "/var/cache/ocifs"),
    ],
)
def test_the_default_directory(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not variables and os.geteuid():
        pytest.skip("needs root")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(default_directory()) == expected
