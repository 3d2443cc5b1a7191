"""Why it does not mount. That it does is seen in tests/mounted."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.errors import MountError
from ocifs.hotpack.recording import Recording
from ocifs.image.opening import open_image
from ocifs.image.rootfs import Rootfs
from ocifs.mount import erofs_engine, syscalls
from ocifs.mount.counters import Counters
from ocifs.mount.erofs_engine import Connection, ErofsEngine
from ocifs.mount.handoff import Handoff
from ocifs.mount.job import Job
from ocifs.mount.options import MountOptions
from ocifs.options import Options
from tests.faults import refusing
from tests.images import Image, Layer, write_layout


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Rootfs, Job]]:
    with open_image(str(write_layout(tmp_path / "image", Image(layers=(Layer(),)))), Options()) as image:
        job = Job(
            image="image",
            digest=str(image.digest),
            mountpoint=str(tmp_path),
            rootfs=Handoff.of(image.rootfs),
            options=MountOptions(),
        )
        yield image.rootfs, job


@pytest.fixture
def engine(opened: tuple[Rootfs, Job]) -> ErofsEngine:
    return ErofsEngine(*opened)


def test_a_type_that_the_kernel_lacks_is_enodev(root: None) -> None:
    with pytest.raises(OSError, match="No such device"):
        syscalls.check_filesystem("no-erofs")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.EPERM, "only root on the host can, with CAP_SYS_ADMIN"),
        (errno.ENOTBLK, r"this kernel mounts EROFS only from block devices \(files need Linux 6\.12\)"),
        (errno.ENOSYS, r"this kernel, or a seccomp filter, has no fsopen\(2\)"),
        (errno.ENODEV, "this kernel has no EROFS"),
        (errno.EINVAL, "Invalid argument"),
    ],
)
def test_each_errno_has_its_reason(engine: ErofsEngine, error: int, reason: str) -> None:
    with pytest.raises(MountError, match=rf"^cannot mount EROFS: {reason}$"):
        refusing("fsopen", error, engine.mount)


def test_nothing_is_left_open_where_fuse_is_refused(engine: ErofsEngine, root: None, fuse: None) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(MountError, match="CAP_SYS_ADMIN"):
        refusing("fsmount", errno.EPERM, engine.mount)
    assert os.listdir("/proc/self/fd") == before


def test_a_kernel_that_hides_xattrs_is_refused() -> None:
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match=r"this kernel's EROFS has no user\.\* xattrs"):
            erofs_engine._check_xattrs(proc)
    finally:
        os.close(proc)


def test_a_mount_may_be_idle_if_another_process_could_go_on_with_nothing_lost(opened: tuple[Rootfs, Job]) -> None:
    rootfs, job = opened
    counters = Counters.private()
    engine = ErofsEngine(rootfs, job, Connection(-1, counters, 1.0))
    served = rootfs.served
    served.recording = None
    assert (engine.may_be_idle(), counters.is_unread) == (True, False)
    served.recording = Recording(0, 1 << 20)
    assert (engine.may_be_idle(), counters.is_unread) == (True, True)
    served.recording.note(1, 0)
    assert not engine.may_be_idle()
    served.recording = None
    served.is_saving = True
    assert not engine.may_be_idle()
    served.is_saving = False
    served.is_fetching_pack = True
    assert not engine.may_be_idle()
    served.is_fetching_pack = False
    assert engine.may_be_idle()
    served.layers[0].conclude("refuted")
    assert not engine.may_be_idle()
