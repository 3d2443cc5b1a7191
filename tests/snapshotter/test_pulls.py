"""Pulls: which images are served lazily, from which snapshots, and which files a container sees."""

import gc
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest

from ocifs.mount.record import LOG, ListedMount, list_mounts, runtime_directory, watch_exit
from ocifs.options import Options
from ocifs.snapshotter.keychain import Keychain
from ocifs.snapshotter.keychain_socket import SOCKET, answering
from ocifs.snapshotter.snapshots import Snapshots
from ocifs.snapshotter.status import SnapshotError
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.peer import Credentials
from ocifs.sources.registry.timeouts import Timeouts
from ocifs.store import Store
from tests.depth import depth
from tests.images import Image, Layer
from tests.registry import Act, Blob, Handler, Registry, basic, hang_up, slowly, stall, status
from tests.snapshotter.client import Snapshotter, mounted, running, settings_in, status_of
from tests.snapshotter.killing import killed_after
from tests.snapshotter.pulling import (
    TARGET,
    Containerd,
    Labels,
    Published,
    cri_labels,
    no_labels,
    publish,
    stargz_labels,
)
from tests.tars import directory, file, hardlink, tar
from tests.tocs import estargz, zstd_chunked
from tests.waiting import thread_count, wait_for

BASE = Layer(tar([directory(b"./"), directory(b"d/", uid=5), file(b"d/old", b"old"), file(b"f", b"base"), file(b"g")]))
MIDDLE = Layer(tar([file(b"d/.wh.old"), file(b"f", b"middle"), file(b"d/new", b"new", mode=0o4755)]), "zstd")
TOP = Layer(tar([file(b".wh.g"), file(b"top", b"top"), hardlink(b"link", b"top")]))
IMAGE = Image((BASE, MIDDLE, TOP))

_HASTY = Access(timeouts=Timeouts(pause=0.01, operation=0.3, first_operation=0.3))
_PATIENT = Access(timeouts=Timeouts(answer=120, operation=120, first_operation=120))

Start = Callable[..., Snapshotter]


@pytest.fixture
def start(tmp_path: Path, service: None) -> Iterator[Start]:
    """Return what runs a snapshotter; of several, one at a time."""
    with ExitStack() as stack:

        def begin(
            engine: str = "erofs", *, prefetch: bool = True, access: Access = _HASTY, **settings: object
        ) -> Snapshotter:
            stack.pop_all().close()
            options = Options(store=Store(tmp_path / "cache"), access=access)
            return stack.enter_context(
                running(tmp_path, options, engine=engine, prefetch=prefetch, settings={"service": True, **settings})
            )

        yield begin


@pytest.fixture
def containerd(start: Start, tmp_path: Path) -> Containerd:
    return Containerd(start().client, tmp_path)


def shown(path: Path) -> dict[str, str]:
    """Return the files below a directory with their contents."""
    found: dict[str, str] = {}
    for where, _, names in os.walk(path):
        found |= {str(Path(where, name).relative_to(path)): Path(where, name).read_text() for name in names}
    return found


MERGED = {"f": "middle", "d/new": "new", "top": "top", "link": "top"}


@pytest.mark.parametrize(("engine", "labels"), [("erofs", cri_labels), ("fuse", stargz_labels)])
def test_containers_run_on_one_overlay_over_the_merged_mount(
    registry: Registry, start: Start, tmp_path: Path, engine: str, labels: Labels
) -> None:
    containerd = Containerd(start(engine).client, tmp_path)
    image = publish(registry, "app", IMAGE)
    assert containerd.pull(image, labels) == ["lazy", "lazy", "lazy"]
    with containerd.container(image.chains[-1]) as path:
        assert shown(path) == MERGED
        assert (path / "d").stat().st_uid == 5
        assert (path / "d/new").stat().st_mode & 0o7777 == 0o4755
        (path / "f").write_text("own")
        (path / "d/new").unlink()
        assert shown(path) == {"f": "own", "top": "top", "link": "top"}
    with containerd.container(image.chains[-1]) as path:
        assert shown(path) == MERGED
    (mount,) = containerd.client.prepare("x", containerd.names[image.chains[-1]])
    assert mount.type == "overlay"
    lower = next(option for option in mount.options if option.startswith("lowerdir="))
    assert ":" not in lower
    (view,) = containerd.client.view("y", containerd.names[image.chains[-1]])
    assert (view.type, lower) == ("bind", f"lowerdir={view.source}")


def test_the_pull_mounts_and_no_whole_layer_is_fetched(registry: Registry, start: Start, tmp_path: Path) -> None:
    snapshotter = start()
    containerd = Containerd(snapshotter.client, tmp_path)
    image = publish(registry, "app", IMAGE)
    containerd.pull(image)
    wait_for(lambda: len(os.listdir(snapshotter.root / "images")) == 1)
    wait_for(lambda: all(os.path.ismount(path) for path in (snapshotter.root / "images").iterdir()))
    documents = [request for request in registry.requests if "/manifests/" in request.path]
    assert len(documents) == 2, documents  # the image, and the index
    assert all(request.range for request in registry.sent if request.path.rpartition("/")[2] in image.layers)


@pytest.mark.parametrize("convert", [estargz, zstd_chunked])
def test_layers_with_a_toc_need_no_index(
    registry: Registry, containerd: Containerd, convert: Callable[[bytes], Layer]
) -> None:
    image = publish(registry, "app", Image((convert(BASE.tar), convert(MIDDLE.tar), convert(TOP.tar))), index=False)
    assert containerd.pull(image) == ["lazy", "lazy", "lazy"]
    with containerd.container(image.chains[-1]) as path:
        assert MERGED.items() <= shown(path).items()


def test_an_image_without_an_index_is_left_to_containerd(registry: Registry, start: Start, tmp_path: Path) -> None:
    containerd = Containerd(start(index_up_to=100).client, tmp_path)
    image = publish(registry, "app", IMAGE, index=False)
    assert containerd.pull(image) == ["unpacked", "unpacked", "unpacked"]
    assert len(registry.requests) < 6  # not asked anew for each layer
    assert not image.requests()


def test_small_layers_without_an_index_are_indexed(registry: Registry, start: Start, tmp_path: Path) -> None:
    containerd = Containerd(start(index_up_to=1 << 20).client, tmp_path)
    image = publish(registry, "app", IMAGE, index=False)
    assert containerd.pull(image) == ["lazy", "lazy", "lazy"]
    with containerd.container(image.chains[-1]) as path:
        assert shown(path) == MERGED


def test_indexing_is_over_when_the_pull_is(registry: Registry, start: Start, tmp_path: Path) -> None:
    """The first request waits for it, and the container's request finds the mount."""
    snapshotter = start(index_up_to=1 << 20)
    image = publish(registry, "app", IMAGE, index=False)
    registry.fault(slowly(len(BASE.blob) * 2), image.layers[0])
    assert Containerd(snapshotter.client, tmp_path).pull(image) == ["lazy", "lazy", "lazy"]
    assert [os.path.ismount(path) for path in (snapshotter.root / "images").iterdir()] == [True]


def test_containerd_unpacks_what_cannot_be_indexed(registry: Registry, start: Start, tmp_path: Path) -> None:
    image = publish(registry, "app", IMAGE, index=False)
    registry.fault(status(404), image.layers[1])
    assert Containerd(start(index_up_to=1 << 20).client, tmp_path).pull(image) == ["unpacked"] * 3


def test_an_index_that_the_operator_does_not_trust_is_not_used(
    registry: Registry, tmp_path: Path, root: None, fuse: None
) -> None:
    options = Options(store=Store(tmp_path / "cache"), trust_index=False)
    with running(tmp_path, options, settings={"index_up_to": 100}) as snapshotter:
        image = publish(registry, "app", IMAGE)
        assert set(Containerd(snapshotter.client, tmp_path).pull(image)) == {"unpacked"}


def test_a_plain_pull_is_unpacked(registry: Registry, containerd: Containerd) -> None:
    image = publish(registry, "app", IMAGE)
    assert containerd.pull(image, no_labels) == ["unpacked", "unpacked", "unpacked"]
    assert not registry.requests


def test_a_container_on_a_lower_layer_sees_the_tree_as_of_it(registry: Registry, containerd: Containerd) -> None:
    image = publish(registry, "app", IMAGE)
    containerd.pull(image)
    with containerd.container(image.chains[0]) as path:
        assert shown(path) == {"f": "base", "d/old": "old", "g": ""}
    with containerd.container(image.chains[1]) as path:
        assert shown(path) == {"f": "middle", "d/new": "new", "g": ""}


def test_ordinary_snapshots_on_an_image(registry: Registry, containerd: Containerd, tmp_path: Path) -> None:
    """A build, or Docker's layer of a container: a commit on an image, and a container on that."""
    image = publish(registry, "app", IMAGE)
    containerd.pull(image)
    client = containerd.client
    parent = containerd.names[image.chains[-1]]
    for number, change in enumerate(["one", "two"]):
        key = containerd.key("build")
        with mounted(client.prepare(key, parent), tmp_path / "m") as path:
            (path / change).touch()
            (path / "top").unlink(missing_ok=True)
        parent = containerd.names[f"build {number}"] = containerd.key("built")
        client.commit(parent, key)
    with containerd.container("build 1") as path:
        assert sorted(shown(path)) == ["d/new", "f", "link", "one", "two"]
    with mounted(client.view("v", parent), tmp_path / "m") as path:
        assert sorted(shown(path)) == ["d/new", "f", "link", "one", "two"]


def test_remote_layers_on_unpacked_ones(registry: Registry, start: Start, tmp_path: Path) -> None:
    containerd = Containerd(start(index_up_to=100).client, tmp_path)
    base = publish(registry, "base", Image((BASE,)), index=False)
    assert containerd.pull(base) == ["unpacked"]
    image = publish(registry, "app", IMAGE)
    assert containerd.pull(image) == ["known", "lazy", "lazy"]
    with containerd.container(image.chains[-1]) as path:
        assert shown(path) == MERGED


def test_images_that_share_layers(registry: Registry, containerd: Containerd) -> None:
    image = publish(registry, "app", IMAGE)
    other = publish(registry, "other", Image((BASE, MIDDLE, Layer(tar([file(b"other", b"x")])))))
    part = publish(registry, "part", Image((BASE, MIDDLE)))
    assert containerd.pull(image) == ["lazy", "lazy", "lazy"]
    assert containerd.pull(other) == ["known", "known", "lazy"]
    assert containerd.pull(part) == ["known", "known"]  # the snapshotter never hears of it
    assert not any("/part/" in request.path for request in registry.requests)
    with containerd.container(other.chains[-1]) as path:
        assert shown(path) == {"f": "middle", "d/new": "new", "g": "", "other": "x"}
    with containerd.container(part.chains[-1]) as path:
        assert shown(path) == {"f": "middle", "d/new": "new", "g": ""}


def test_namespaces_share_snapshots_and_mounts(registry: Registry, start: Start, tmp_path: Path) -> None:
    snapshotter = start()
    first, second = (Containerd(snapshotter.client, tmp_path, name) for name in ("k8s.io", "moby"))
    image = publish(registry, "app", IMAGE)
    copy = publish(registry, "copy", IMAGE)
    assert first.pull(image) == second.pull(copy) == ["lazy", "lazy", "lazy"]
    assert first.names == second.names
    sources = snapshotter.snapshots.metadata.sources(image.chains[-1])
    assert {source.repository.partition("/")[2] for source in sources} == {"app", "copy"}
    with first.container(image.chains[-1]), second.container(image.chains[-1]):
        assert len(os.listdir(snapshotter.root / "images")) == 1


def test_a_chain_runs_from_another_image_if_its_own_is_gone(registry: Registry, start: Start, tmp_path: Path) -> None:
    containerd = Containerd(start().client, tmp_path, "one")
    image, copy = publish(registry, "app", IMAGE), publish(registry, "copy", IMAGE)
    containerd.pull(image)
    Containerd(containerd.client, tmp_path, "two").pull(copy)
    containerd = Containerd(start().client, tmp_path, "one", containerd.names)
    registry.fault(status(404), "/copy/")
    with containerd.container(image.chains[-1]) as path:
        assert shown(path) == MERGED


_LIES: dict[str, Callable[[dict[str, str], Published], object]] = {
    # First, because a manifest in the cache needs no registry.
    "an unknown registry": lambda labels, image: labels.update(
        {"containerd.io/snapshot/cri.image-ref": "127.0.0.1:1/app"}
    ),
    "another chain ID": lambda labels, image: labels.update({TARGET: "sha256:" + "1" * 64}),
    "a chain ID of a higher layer": lambda labels, image: labels.update({TARGET: image.chains[1]}),
    "no digest as chain ID": lambda labels, image: labels.update({TARGET: "../../etc"}),
    "another manifest": lambda labels, image: labels.update(
        {"containerd.io/snapshot/cri.manifest-digest": "sha256:" + "1" * 64}
    ),
    "a malformed manifest": lambda labels, image: labels.update({"containerd.io/snapshot/cri.manifest-digest": "x"}),
    "another layer": lambda labels, image: labels.update({"containerd.io/snapshot/cri.layer-digest": image.layers[1]}),
    "a malformed name": lambda labels, image: labels.update({"containerd.io/snapshot/cri.image-ref": "../../X\n"}),
    "a path": lambda labels, image: labels.update({"containerd.io/snapshot/cri.image-ref": "/etc"}),
    "no name": lambda labels, image: labels.pop("containerd.io/snapshot/cri.image-ref"),
}


def test_labels_that_lie_are_those_of_ordinary_snapshots(registry: Registry, start: Start, tmp_path: Path) -> None:
    snapshotter = start()
    image = publish(registry, "app", IMAGE)
    for what, lie in _LIES.items():
        labels = {TARGET: image.chains[0], **cri_labels(image, 0)}
        lie(labels, image)
        assert (what, [mount.type for mount in snapshotter.client.prepare(what, "", labels)]) == (what, ["bind"])
    labels = {TARGET: image.chains[1], **cri_labels(image, 1)}
    snapshotter.client.commit("base", "no name", {TARGET: "sha256:" + "2" * 64})
    assert snapshotter.client.prepare("wrong parent", "base", labels)
    assert snapshotter.client.prepare("no parent", "", labels)


def test_a_label_on_an_ordinary_snapshot_proves_nothing(registry: Registry, containerd: Containerd) -> None:
    image = publish(registry, "app", IMAGE)
    client = containerd.client
    client.prepare("a")
    client.commit(image.chains[0], "a", {TARGET: image.chains[0]})  # the name is taken, too
    assert containerd.pull(image) == ["lazy", "lazy", "lazy"]
    with containerd.container(image.chains[-1]) as path:
        assert shown(path) == MERGED


def test_removed_images_are_unmounted(registry: Registry, start: Start, tmp_path: Path) -> None:
    snapshotter = start()
    containerd = Containerd(snapshotter.client, tmp_path)
    image = publish(registry, "app", IMAGE)
    containerd.pull(image)
    with containerd.container(image.chains[-1]):
        with pytest.raises(grpc.RpcError) as caught:
            snapshotter.client.remove(containerd.names[image.chains[-1]])
        assert status_of(caught) == "FAILED_PRECONDITION"
        snapshotter.client.cleanup()
        assert len(os.listdir(snapshotter.root / "images")) == 1
    containerd.remove_image(image)
    assert not os.listdir(snapshotter.root / "images")
    assert snapshotter.client.walk() == []
    assert snapshotter.snapshots.metadata.sources(image.chains[-1]) == []
    containerd.pull(image)
    with containerd.container(image.chains[-1]) as path:
        assert shown(path) == MERGED


def test_an_idle_image_is_unmounted_and_returns_without_network(
    registry: Registry, start: Start, tmp_path: Path
) -> None:
    snapshotter = start()
    containerd = Containerd(snapshotter.client, tmp_path)
    image = publish(registry, "app", IMAGE)
    containerd.pull(image)
    images = snapshotter.snapshots.images
    with containerd.container(image.chains[-1]) as path:
        assert shown(path) == MERGED
        wait_for(lambda: _listed(snapshotter, image).is_verified)  # all bytes are local now
        images.unmount_unused(idle=0.001)
        assert os.listdir(snapshotter.root / "images")
    images.unmount_unused(idle=1000)
    assert os.listdir(snapshotter.root / "images")
    images.unmount_unused(idle=0.001)
    assert not os.listdir(snapshotter.root / "images")
    registry.fault(status(503), "/")
    registry.requests.clear()
    with containerd.container(image.chains[-1]) as path:
        assert shown(path) == MERGED
        wait_for(lambda: _listed(snapshotter, image).is_verified)
    assert registry.requests == []


def _listed(snapshotter: Snapshotter, image: Published) -> ListedMount:
    """Return the mount of an image."""
    where = str(snapshotter.snapshots.images.mountpoint(image.chains[-1]))
    (mount,) = [each for each in list_mounts() if each.mountpoint == where]
    return mount


def test_a_dead_mount_is_made_again(registry: Registry, start: Start, tmp_path: Path) -> None:
    snapshotter = start("fuse", service=False)
    containerd = Containerd(snapshotter.client, tmp_path)
    image = publish(registry, "app", IMAGE)
    containerd.pull(image)
    with containerd.container(image.chains[-1]) as path:
        mount = _listed(snapshotter, image)
        with watch_exit(mount.pid) as has_ended:
            os.kill(mount.pid, signal.SIGKILL)
            assert has_ended(30)
        with pytest.raises(OSError, match="not connected"):
            (path / "top").read_bytes()
        with containerd.container(image.chains[-1]) as another:
            assert shown(another) == MERGED


@pytest.mark.parametrize("indexed", [True, False])
def test_a_kill_at_each_step_of_a_pull_is_repaired(
    registry: Registry, tmp_path: Path, service: None, indexed: bool
) -> None:
    """Without an index, the image is mounted before the snapshot is committed."""
    more = {"service": True, "index_up_to": 1 << 20}
    image = publish(registry, "app", IMAGE, index=indexed)
    labels = {TARGET: image.chains[0], **cri_labels(image, 0)}
    top = image.chains[-1]
    seen: list[str] = []

    def pull(snapshots: Snapshots) -> None:
        with suppress(SnapshotError):
            snapshots.prepare("key", "", labels)

    for steps in range(40):
        place = tmp_path / str(steps)
        options = Options(store=Store(place / "cache"), access=_HASTY)
        killed = killed_after(steps, settings_in(place, options, settings=more), pull)
        with running(place, options, step=seen.append, settings=more) as snapshotter:
            names = snapshotter.client.names()
            assert names in ([], [image.chains[0]])
            if steps % 2:  # nothing continues the pull
                for name in names:
                    snapshotter.client.remove(name)
                snapshotter.snapshots.images.forget(top)
                snapshotter.snapshots.images.unmount_unused()
                assert os.listdir(snapshotter.root / "images") == []
            containerd = Containerd(snapshotter.client, tmp_path)
            assert containerd.pull(image) == ["lazy"] * 3
            with containerd.container(top) as path:
                assert shown(path) == MERGED
            containerd.remove_image(image)
            assert os.listdir(snapshotter.root / "snapshots") == os.listdir(snapshotter.root / "images") == []
        if not killed:
            break
    assert names == [image.chains[0]]
    assert 8 < steps < 39
    if not indexed:
        assert seen.index("mounted") < seen.index("commit")


def test_a_kill_at_each_step_of_a_mount_is_repaired(registry: Registry, tmp_path: Path, service: None) -> None:
    options = Options(store=Store(tmp_path / "cache"), access=_HASTY)
    image = publish(registry, "app", IMAGE)
    with running(tmp_path, options, settings={"service": True}) as snapshotter:
        containerd = Containerd(snapshotter.client, tmp_path)
        containerd.pull(image)
    top = containerd.names[image.chains[-1]]

    def run(snapshots: Snapshots) -> None:
        snapshots.prepare("killed", top, {})
        snapshots.mounts("killed")
        snapshots.remove("killed")
        snapshots.images.unmount_unused(idle=1e-9)
        snapshots.cleanup()

    for steps in range(30):
        killed = killed_after(steps, snapshotter.settings, run)
        with running(tmp_path, options, settings={"service": True}) as snapshotter:
            if "killed" in snapshotter.client.names():
                snapshotter.client.remove("killed")
            with Containerd(snapshotter.client, tmp_path, "x", containerd.names).container(image.chains[-1]) as path:
                assert shown(path) == MERGED
            snapshotter.client.cleanup()
            assert os.listdir(snapshotter.root / "snapshots") == []
        if not killed:
            break
    assert 10 < steps < 29


def test_concurrent_pulls_of_an_image_share_one_decision_and_one_mount(
    registry: Registry, start: Start, tmp_path: Path
) -> None:
    snapshotter = start()
    image = publish(registry, "app", IMAGE)
    results: list[list[str]] = []
    count = depth(20, 200)

    def pull(number: int) -> None:
        results.append(Containerd(snapshotter.client, tmp_path, f"n{number}").pull(image))

    threads = [threading.Thread(target=pull, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [["lazy", "lazy", "lazy"]] * count
    manifests = [request for request in registry.requests if request.path.endswith(image.manifest)]
    assert len([request for request in manifests if "/manifests/" in request.path]) == 1
    assert len(snapshotter.client.walk()) == 3
    containerd = Containerd(snapshotter.client, tmp_path, "n0", dict.fromkeys(image.chains, image.chains[-1]))
    with containerd.container(image.chains[-1]) as path:
        assert shown(path) == MERGED
    assert len(os.listdir(snapshotter.root / "images")) == 1


def test_parallel_pulls_of_different_images(registry: Registry, start: Start, tmp_path: Path) -> None:
    """Each image is decided and mounted once; threads end, and memory and requests do not grow with the pulls."""
    snapshotter = start()
    tops = [Layer(tar([file(b"top", b"%d" % number)])) for number in range(depth(8, 20))]
    images = [publish(registry, f"app{number}", Image((BASE, MIDDLE, top))) for number, top in enumerate(tops)]
    pulls = [(name, image) for name in range(depth(3, 10)) for image in images]
    results: list[list[str]] = []
    threads_before, memory_before = _threads(), _memory()

    def pull(name: int, image: Published) -> None:
        results.append(Containerd(snapshotter.client, tmp_path, f"n{name}-{image.repository}").pull(image))

    threads = [threading.Thread(target=pull, args=each) for each in pulls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [["lazy"] * 3] * len(pulls)
    for image in images:
        assert len([each for each in registry.requests if each.path.endswith(f"manifests/{image.manifest}")]) == 1
        names = dict.fromkeys(image.chains, image.chains[-1])
        with Containerd(snapshotter.client, tmp_path, "x", names).container(image.chains[-1]) as path:
            assert (path / "top").read_bytes() == b"%d" % images.index(image)
    assert len(snapshotter.client.walk()) == len(images) + 2
    assert len(snapshotter.snapshots.images.mounted()) == len(images)
    wait_for(lambda: _threads() <= threads_before + len(pulls))  # those that answer requests stay
    assert _memory() - memory_before < 100 << 20


def _threads() -> int:
    """Return the number of threads, without those of the registry: the processes of mounts keep connections to it."""
    return thread_count() - sum("process_request_thread" in each.name for each in threading.enumerate())


def _memory() -> int:
    """Return the bytes of memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_200_containers_at_once(registry: Registry, start: Start, tmp_path: Path) -> None:
    snapshotter = start()
    containerd = Containerd(snapshotter.client, tmp_path)
    image = publish(registry, "app", IMAGE)
    containerd.pull(image)
    top = containerd.names[image.chains[-1]]
    mounts: dict[int, str] = {}

    def prepare(number: int) -> None:
        (mount,) = snapshotter.client.prepare(f"c{number}", top)
        mounts[number] = next(option for option in mount.options if option.startswith("upperdir="))

    threads = [threading.Thread(target=prepare, args=[number]) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(mounts.values())) == 200
    assert len(snapshotter.client.walk("kind==active")) == 200


@pytest.mark.parametrize("code", [401, 403, 404, 500])
def test_an_image_that_the_registry_refuses_is_left_to_containerd(
    registry: Registry, containerd: Containerd, code: int
) -> None:
    image = publish(registry, "app", IMAGE)
    registry.fault(status(code), "/")
    assert containerd.pull(image) == ["unpacked", "unpacked", "unpacked"]


@pytest.mark.parametrize(
    ("fault", "reason"), [(status(401), "authorization"), (status(500), "500"), (hang_up, "127.0.0.1")]
)
def test_a_registry_that_fails_when_an_image_has_to_be_mounted_again_is_named(
    registry: Registry, start: Start, tmp_path: Path, fault: Act, reason: str
) -> None:
    snapshotter = start()
    containerd = Containerd(snapshotter.client, tmp_path)
    image = publish(registry, "app", IMAGE)
    containerd.pull(image)
    with containerd.container(image.chains[-1]):
        pass
    snapshotter.snapshots.images.unmount_unused(idle=0.001)
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.unlink()
    registry.fault(fault, "/", times=100)
    with pytest.raises(grpc.RpcError, match=reason) as caught:
        snapshotter.client.prepare("c", containerd.names[image.chains[-1]])
    assert status_of(caught) == "UNAVAILABLE"
    assert caught.value.details().startswith("cannot mount the layers sha256:")
    assert snapshotter.client.walk("kind==active") == []
    registry.faults.clear()
    with containerd.container(image.chains[-1]) as path:
        assert shown(path) == MERGED


def test_the_mounts_of_a_container_after_its_image_was_lost(registry: Registry, start: Start, tmp_path: Path) -> None:
    """The image is not mounted any more, none of its bytes is in the cache, and the registry is down, then back."""
    snapshotter = start()
    containerd = Containerd(snapshotter.client, tmp_path)
    image = publish(registry, "app", IMAGE)
    containerd.pull(image)
    before = snapshotter.client.prepare("container", containerd.names[image.chains[-1]])
    where = snapshotter.snapshots.images.mountpoint(image.chains[-1])
    for down in (status(500), hang_up):
        subprocess.run(["umount", "-l", where], check=True)
        for path in (tmp_path / "cache").rglob("*"):
            if path.is_file():
                path.unlink()
        registry.fault(down, "/")
        with pytest.raises(grpc.RpcError, match="cannot mount the layers sha256:") as caught:
            snapshotter.client.mounts("container")
        assert status_of(caught) == "UNAVAILABLE"
        registry.faults.clear()
        assert snapshotter.client.mounts("container") == before
        with mounted(before, tmp_path / "m") as path:
            assert shown(path) == MERGED


def test_a_registry_that_stalls_is_left_to_containerd(registry: Registry, start: Start, tmp_path: Path) -> None:
    """The pull asks once and waits once, not for each layer; nor do later pulls while that request is under way."""
    snapshotter = start(access=_PATIENT, decision_seconds=0.5)
    image = publish(registry, "app", IMAGE)
    registry.fault(stall, "/manifests/")
    assert Containerd(snapshotter.client, tmp_path).pull(image) == ["unpacked"] * 3
    assert len(registry.requests) == 1
    assert Containerd(snapshotter.client, tmp_path, "other").pull(image) == ["unpacked"] * 3
    assert len(registry.requests) == 1
    registry.closing.set()


def test_layers_that_stall_while_they_are_indexed_are_left_to_containerd(
    registry: Registry, start: Start, tmp_path: Path
) -> None:
    snapshotter = start(access=_PATIENT, index_up_to=1 << 20, decision_seconds=0.5, indexing_seconds=1.0)
    image = publish(registry, "app", IMAGE, index=False)
    registry.fault(stall, image.layers[1])
    assert Containerd(snapshotter.client, tmp_path).pull(image) == ["unpacked"] * 3
    wait_for(lambda: image.layers[1] in " ".join(image.requests()))
    registry.faults.clear()
    registry.closing.set()  # ends the requests that stall


@pytest.mark.parametrize("fault", depth([status(503), hang_up], [status(503), hang_up, stall]))
def test_a_registry_that_is_gone_at_the_first_read(
    registry: Registry, start: Start, tmp_path: Path, fault: Act
) -> None:
    """The container has its files' names; their bytes are EIO, with a line in the log, until the registry is back."""
    snapshotter = start(prefetch=False)
    containerd = Containerd(snapshotter.client, tmp_path)
    image = publish(registry, "app", IMAGE)
    registry.fault(fault, "|".join(f"/blobs/{layer}" for layer in image.layers))
    assert containerd.pull(image) == ["lazy", "lazy", "lazy"]
    log = runtime_directory().path / LOG
    before = log.stat().st_size if log.exists() else 0
    with containerd.container(image.chains[-1]) as path:
        assert sorted(os.listdir(path)) == sorted({name.partition("/")[0] for name in MERGED})
        with pytest.raises(OSError, match="Input/output error"):
            (path / "top").read_bytes()
        with log.open("rb") as said:
            said.seek(before)
            assert registry.host.encode() in said.read()
        (path / "own").write_text("own")
        registry.faults.clear()
        wait_for(lambda: _can_read(path / "top"))
        assert shown(path) == {**MERGED, "own": "own"}


def test_a_later_pull_renews_the_credentials_of_a_mount(registry: Registry, tmp_path: Path, service: None) -> None:
    """Such as tokens for some hours: kubelet sends another one with the pull of another Pod."""
    password = "old"
    image = publish(registry, "app", IMAGE)

    def guard(handler: Handler, blob: Blob) -> None:
        basic("me", password)(handler, blob)

    registry.fault(guard, "/v2/app/")
    keychain, name = Keychain(_HASTY, str(tmp_path / "root" / SOCKET)), f"{registry.host}/app"
    keychain.replace(name, Credentials("me", "old"))
    options = Options(store=Store(tmp_path / "cache"), access=_HASTY)
    settings = {"service": True}
    with (
        running(tmp_path, options, prefetch=False, access=keychain.access, settings=settings) as snapshotter,
        answering(snapshotter.root / SOCKET, keychain),
    ):
        containerd = Containerd(snapshotter.client, tmp_path)
        assert containerd.pull(image) == ["lazy", "lazy", "lazy"]
        with containerd.container(image.chains[-1]) as path:
            password = "new"
            with pytest.raises(OSError, match="Input/output error"):
                (path / "top").read_bytes()
            keychain.replace(name, Credentials("me", "new"))
            wait_for(lambda: _can_read(path / "top"))
            assert shown(path) == MERGED


def _can_read(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True
