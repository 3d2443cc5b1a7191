"""containerd's rules for every snapshotter, with the cases of its own test suite in Go."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from ocifs.snapshotter import snapshots_pb2 as pb
from tests.snapshotter.client import Client, mounted, running, status_of


@pytest.fixture
def client(tmp_path: Path, root: None) -> Iterator[Client]:
    with running(tmp_path) as snapshotter:
        yield snapshotter.client


def test_a_stack_of_snapshots_shows_what_was_written(client: Client, tmp_path: Path) -> None:
    with mounted(client.prepare("a"), tmp_path / "m") as path:
        (path / "foo").write_text("foo")
        (path / "a/b").mkdir(parents=True)
    client.commit("first", "a")
    with mounted(client.prepare("b", "first"), tmp_path / "m") as path:
        assert sorted(os.listdir(path)) == ["a", "foo"]
        (path / "foo").write_text("bar")
        (path / "a/b").rmdir()
        (path / "new").touch()
    client.commit("second", "b")
    with mounted(client.view("v", "second"), tmp_path / "m") as path:
        assert sorted(os.listdir(path)) == ["a", "foo", "new"]
        assert (path / "foo").read_text() == "bar"
        assert os.listdir(path / "a") == []
        with pytest.raises(OSError, match="Read-only"):
            (path / "x").touch()
    with mounted(client.view("v1", "first"), tmp_path / "m") as path, pytest.raises(OSError, match="Read-only"):
        (path / "x").touch()
    with mounted(client.view("v0"), tmp_path / "m") as path, pytest.raises(OSError, match="Read-only"):
        (path / "x").touch()


_CHANGES = {
    "a file is updated": (["echo one >f", "echo two >f"], "cat f", "two"),
    "a directory is removed and made again": (["mkdir d; touch d/old", "rm -r d; mkdir d; touch d/new"], "ls d", "new"),
    "owners change": (["touch f", "chown 7:8 f"], "stat -c %u:%g f", "7:8"),
    "a deleted file stays deleted": (["touch f", "rm f", "true"], "ls -A", ""),
    "a file moves": (["echo x >f", "mkdir d; mv f d"], "ls -A; cat d/f", "d\nx"),
    "a file of a lower layer is linked": (["echo x >f", "mkdir d; ln f d/g; rm f"], "ls -A; cat d/g", "d\nx"),
    "owner and mode of the root survive": (["chown 5:6 .; chmod 711 .", "true"], "stat -c %u:%g:%a .", "5:6:711"),
    "the root has mode 0755": (["true"], "stat -c %a .", "755"),
    "owner and mode of a directory survive": (
        ["mkdir d; chown 5:6 d; chmod 700 d", "true"],
        "stat -c %u:%g:%a d",
        "5:6:700",
    ),
}


@pytest.mark.parametrize("what", _CHANGES)
def test_changes_in_upper_snapshots(what: str, client: Client, tmp_path: Path) -> None:
    """Each step runs on a snapshot of the last one; a view, and another snapshot, show the result."""
    steps, look, expected = _CHANGES[what]
    parent = ""
    for number, step in enumerate(steps):
        with mounted(client.prepare(f"a{number}", parent), tmp_path / "m") as path:
            subprocess.run(["sh", "-ec", step], cwd=path, check=True)
        parent = f"c{number}"
        client.commit(parent, f"a{number}")
    for mounts in (client.view("v", parent), client.prepare("again", parent)):
        with mounted(mounts, tmp_path / "m") as path:
            assert subprocess.check_output(["sh", "-ec", look], cwd=path, text=True).strip() == expected


def test_stat_and_times(client: Client) -> None:
    before = time.time_ns()
    client.prepare("a", labels={"x": "y", "empty": ""})
    client.commit("c", "a", {"of": "commit"})
    client.prepare("b", "c", {"l": "1"})
    client.view("v", "c")
    found = {info.name: info for info in client.walk()}
    assert {name: (info.kind, info.parent, dict(info.labels)) for name, info in found.items()} == {
        "c": (pb.COMMITTED, "", {"of": "commit"}),
        "b": (pb.ACTIVE, "c", {"l": "1"}),
        "v": (pb.VIEW, "c", {}),
    }
    for name, info in found.items():
        assert client.stat(name) == info
        assert before <= info.created_at.ToNanoseconds() <= time.time_ns()
        assert info.updated_at == info.created_at


_FAILURES: dict[str, tuple[Callable[[Client], object], str]] = {
    "Stat of nothing": (lambda c: c.stat("x"), "NOT_FOUND"),
    "Mounts of nothing": (lambda c: c.mounts("x"), "NOT_FOUND"),
    "Remove of nothing": (lambda c: c.remove("x"), "NOT_FOUND"),
    "Usage of nothing": (lambda c: c.usage("x"), "NOT_FOUND"),
    "Update of nothing": (lambda c: c.update(pb.Info(name="x")), "NOT_FOUND"),
    "Commit of nothing": (lambda c: c.commit("y", "x"), "NOT_FOUND"),
    "Prepare on nothing": (lambda c: c.prepare("x", "y"), "NOT_FOUND"),
    "View on nothing": (lambda c: c.view("x", "y"), "NOT_FOUND"),
    "Prepare on an active one": (lambda c: c.prepare("x", "active"), "INVALID_ARGUMENT"),
    "Prepare on a view": (lambda c: c.prepare("x", "view"), "INVALID_ARGUMENT"),
    "Prepare with a used key": (lambda c: c.prepare("active", "base"), "ALREADY_EXISTS"),
    "Prepare with the name of a committed one": (lambda c: c.prepare("base", "base"), "ALREADY_EXISTS"),
    "View with a used key": (lambda c: c.view("active", "base"), "ALREADY_EXISTS"),
    "View twice": (lambda c: c.view("view", "base"), "ALREADY_EXISTS"),
    "Commit to a used name": (lambda c: c.commit("base", "active"), "ALREADY_EXISTS"),
    "Commit of a view": (lambda c: c.commit("x", "view"), "FAILED_PRECONDITION"),
    "Commit of a committed one": (lambda c: c.commit("x", "base"), "FAILED_PRECONDITION"),
    "Mounts of a committed one": (lambda c: c.mounts("base"), "FAILED_PRECONDITION"),
    "Remove of a parent": (lambda c: c.remove("base"), "FAILED_PRECONDITION"),
    "Update of the parent": (lambda c: c.update(pb.Info(name="active"), "parent"), "INVALID_ARGUMENT"),
    "Update of the kind": (lambda c: c.update(pb.Info(name="active"), "kind"), "INVALID_ARGUMENT"),
    "Update of a label and the name": (lambda c: c.update(pb.Info(name="active"), "labels.x", "name"),
                                       "INVALID_ARGUMENT"),
    "a malformed filter": (lambda c: c.walk("kind="), "INVALID_ARGUMENT"),
    "Prepare without a key": (lambda c: c.prepare(""), "INVALID_ARGUMENT"),
    "Stat without a key": (lambda c: c.stat(""), "INVALID_ARGUMENT"),
    "Commit without a name": (lambda c: c.commit("", "active"), "INVALID_ARGUMENT"),
    "Commit without a key": (lambda c: c.commit("x", ""), "INVALID_ARGUMENT"),
    "Update without a name": (lambda c: c.update(pb.Info()), "INVALID_ARGUMENT"),
    "a key that is too long": (lambda c: c.prepare("x" * 5000), "INVALID_ARGUMENT"),
    "a null in a key": (lambda c: c.prepare("x\0y"), "INVALID_ARGUMENT"),
    "a label that is too long": (lambda c: c.prepare("x", "", {"key": "x" * 4094}), "INVALID_ARGUMENT"),
    "a label without a key": (lambda c: c.prepare("x", "", {"": "y"}), "INVALID_ARGUMENT"),
    "too many labels": (lambda c: c.prepare("x", "", {str(n): "y" for n in range(1001)}), "INVALID_ARGUMENT"),
    "half a mapping of IDs": (lambda c: c.prepare("x", "base", {"containerd.io/snapshot/uidmapping": "0:1:1"}),
                              "INVALID_ARGUMENT"),
    "an odd mapping of IDs": (
        lambda c: c.prepare("x", "base", dict.fromkeys([f"containerd.io/snapshot/{i}mapping" for i in ("uid", "gid")],
                                                      "0:0:99999999999")),
        "INVALID_ARGUMENT",
    ),
    "a mapping without root": (
        lambda c: c.prepare("x", "base", dict.fromkeys([f"containerd.io/snapshot/{i}mapping" for i in ("uid", "gid")],
                                                      "1:100000:1")),
        "FAILED_PRECONDITION",
    ),
}  # fmt: skip


def test_failures_have_the_status_of_containerd_and_change_nothing(client: Client, tmp_path: Path) -> None:
    client.prepare("tmp")
    client.commit("base", "tmp")
    client.prepare("active", "base")
    client.view("view", "base")
    before, directories = client.walk(), sorted(os.listdir(tmp_path / "root/snapshots"))
    for what, (call, status) in _FAILURES.items():
        with pytest.raises(grpc.RpcError) as caught:
            call(client)
        assert (what, status_of(caught)) == (what, status), caught.value.details()
        assert caught.value.details().isprintable()
    assert client.walk() == before
    client.cleanup()
    assert sorted(os.listdir(tmp_path / "root/snapshots")) == directories


def test_the_largest_label_is_kept(client: Client) -> None:
    labels = {"k": "v" * 4095, "ü": "é" * 2047}
    client.prepare("a", "", labels)
    assert dict(client.stat("a").labels) == labels


def test_names_of_removed_snapshots_are_free_and_files_are_gone(client: Client, tmp_path: Path) -> None:
    client.prepare("a")
    client.commit("c", "a")
    client.prepare("reuse", "c")
    client.remove("reuse")
    client.view("reuse", "c")
    client.remove("reuse")
    client.prepare("reuse")
    client.remove("c")
    client.commit("c", "reuse")
    assert client.names() == ["c"]
    client.cleanup()
    assert len(os.listdir(tmp_path / "root/snapshots")) == 1


def test_update_of_labels(client: Client) -> None:
    client.prepare("a", "", {"old": "1"})
    created = client.stat("a").created_at
    info = client.update(pb.Info(name="a", parent="nothing", labels={"l1": "1", "l2": "2", "l3": "3"}))
    assert (dict(info.labels), info.parent, info.created_at) == ({"l1": "1", "l2": "2", "l3": "3"}, "", created)
    assert info.updated_at.ToNanoseconds() > created.ToNanoseconds()
    info = client.update(pb.Info(name="a", labels={"l1": "new", "l4": "4"}), "labels.l1", "labels.l2")
    assert dict(info.labels) == {"l1": "new", "l3": "3"}
    info = client.update(pb.Info(name="a", labels={"l4": "4"}), "labels")
    assert dict(info.labels) == {"l4": "4"}
    assert client.stat("a") == info


_FILTERS = [
    ([], ["a", "a-l", "p", "p-l", "top", "v"]),
    (["kind==active"], ["a", "a-l", "top"]),
    (["kind==view"], ["v"]),
    (["kind==committed"], ["p", "p-l"]),
    (["name==p", "name==top"], ["p", "top"]),
    (["parent==p"], ["a", "v"]),
    (['parent!=""'], ["a", "a-l", "v"]),
    (["labels.l"], ["a-l", "p-l"]),
    (["labels.l==2"], ["a-l"]),
    (["name==a-l,labels.l"], ["a-l"]),
    (['labels."containerd.io/x"==y:z'], ["p-l"]),
]


def test_list_with_filters(client: Client) -> None:
    client.prepare("top")
    client.prepare("t")
    client.commit("p", "t")
    client.prepare("a", "p")
    client.view("v", "p")
    client.prepare("t")
    client.commit("p-l", "t", {"l": "1", "containerd.io/x": "y:z"})
    client.prepare("a-l", "p-l", {"l": "2"})
    for filters, names in _FILTERS:
        assert (filters, client.names(*filters)) == (filters, names)


def test_usage_is_that_of_the_snapshot_itself(client: Client, tmp_path: Path) -> None:
    def grow(path: Path) -> None:
        (path / "f").write_bytes(b"x" * 100_000)
        os.link(path / "f", path / "g")

    with mounted(client.prepare("a"), tmp_path / "m") as path:
        grow(path)
    assert client.usage("a")[1] == 2
    client.commit("c", "a")
    assert client.usage("c") == client.usage("c")
    assert 100_000 <= client.usage("c")[0] < 200_000
    client.prepare("b", "c")
    assert client.usage("b")[0] < 10_000


def test_a_long_list_comes_in_pages_and_stat_works_meanwhile(client: Client) -> None:
    for number in range(250):
        client.view(f"v{number:03}")
    listed = client.walk()
    assert [info.name for info in listed] == [f"v{number:03}" for number in range(250)]
    assert [client.stat(info.name) for info in listed[:3]] == listed[:3]


def test_many_layers_are_one_overlay(client: Client) -> None:
    parent = ""
    for number in range(128):
        client.prepare(f"a{number}", parent)
        parent = f"c{number}"
        client.commit(parent, f"a{number}")
    (mount,) = client.view("v", parent)
    (lower,) = [option for option in mount.options if option.startswith("lowerdir=")]
    assert lower.count(":") == 127
    # containerd shortens the option by the directory that all have in common: the rest must fit a page.
    directories = lower.removeprefix("lowerdir=").split(":")
    common = os.path.commonpath(directories)
    assert len(":".join(os.path.relpath(each, common) for each in directories)) < 4096 - 512
