"""What a container gets beyond its image's config: mounts, the files of an engine, and the user's settings."""

from pathlib import Path

import pytest

from ocifs.bundle.config import Host
from ocifs.bundle.devices import DeviceRequest
from ocifs.bundle.overrides import Overrides
from ocifs.bundle.plan import Plan, plan
from ocifs.bundle.requested_mounts import RequestedMount, parse_tmpfs
from ocifs.bundle.runtime_spec import Cpu, DeviceRule, Memory, Pids
from ocifs.bundle.settings import ContainerSettings
from ocifs.errors import OcifsError, UnsupportedError
from ocifs.image.opening import open_image
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, symlink, tar

_TOP = [directory(name) for name in (b"dev", b"etc", b"proc", b"run", b"srv", b"sys")]
_FILES = [file(b"etc/hosts"), file(b"etc/hostname")]
_ZERO = DeviceRequest("/dev/zero", "/dev/z", "r", "c", 1, 5, 0o666, 0, 0)


def planned(
    where: Path,
    settings: ContainerSettings | None = None,
    members: list[bytes] | None = None,
    *,
    readonly: bool = False,
    rootless: bool = False,
    volumes: tuple[str, ...] = (),
    user: str = "",
) -> tuple[Plan, list[str]]:
    """Plan a container of an image with these members; return the warnings as well."""
    config = {"Cmd": ["/x"], "Env": ["PATH=/bin"], "Volumes": {each: {} for each in volumes}, "User": user}
    layer = Layer(tar([*_TOP, *(_FILES if members is None else members)]))
    warnings: list[str] = []
    with open_image(write_layout(where / "image", Image((layer,), config={"config": config}))) as image:
        host = Host(readonly=readonly, rootless=(1000, 1000) if rootless else None)
        made = plan(
            image.resolved.config, image.rootfs, Overrides(), settings or ContainerSettings(), host, warnings.append
        )
    return made, warnings


def destinations(made: Plan) -> list[str]:
    return [each.destination for each in made.spec.mounts]


def file_bind(destination: str) -> RequestedMount:
    return RequestedMount(kind="bind", source="/s", destination=destination, options=("rbind", "ro"), is_file=True)


@pytest.mark.parametrize(
    ("members", "destination", "resolved"),
    [
        ([], "/data", "/data"),
        ([symlink(b"var/run", b"/run")], "/var/run/app", "/run/app"),
        ([symlink(b"a", b"b/c"), symlink(b"b/c", b"../srv")], "/a", "/srv"),
        ([symlink(b"a", b"../../../../srv")], "/a/b", "/srv/b"),
        ([symlink(b"a", b"/missing")], "/a", "/missing"),
    ],
)
def test_a_destination_is_resolved_in_the_image(
    tmp_path: Path, members: list[bytes], destination: str, resolved: str
) -> None:
    """The runtime sees no symlink, so it cannot follow one on the host."""
    made, _ = planned(tmp_path, ContainerSettings(mounts=(parse_tmpfs(destination),)), members)
    assert destinations(made)[-1] == resolved or resolved in destinations(made)
    assert destination == resolved or destination not in destinations(made)


@pytest.mark.parametrize(
    ("members", "mounts", "complaint"),
    [
        ([symlink(b"a", b"/proc/sys")], [parse_tmpfs("/a")], "leads to /proc/sys by a symlink"),
        ([symlink(b"a", b"dev")], [parse_tmpfs("/a/x")], "leads to /dev/x by a symlink"),
        ([symlink(b"a", b"/")], [parse_tmpfs("/a")], "leads to / by a symlink"),
        ([symlink(b"a", b"a")], [parse_tmpfs("/a")], "Too many levels"),
        ([symlink(b"a", b"/\xff")], [parse_tmpfs("/a")], "not UTF-8"),
        ([symlink(b"a", b"srv")], [parse_tmpfs("/a"), parse_tmpfs("/srv")], "/srv is the destination of two mounts"),
        ([symlink(b"srv/a", b"/etc")], [parse_tmpfs("/srv"), parse_tmpfs("/srv/a")], "/srv/a is a symlink"),
        ([file(b"a")], [parse_tmpfs("/a")], "/a is not a directory"),
        ([file(b"a")], [file_bind("/a/b")], "/a is not a directory"),
        ([], [file_bind("/srv")], "/srv is a directory"),
    ],
)
def test_where_nothing_is_mounted(
    tmp_path: Path, members: list[bytes], mounts: list[RequestedMount], complaint: str
) -> None:
    with pytest.raises(OcifsError, match=complaint):
        planned(tmp_path, ContainerSettings(mounts=tuple(mounts)), members)


def test_a_missing_destination_needs_a_writable_rootfs(tmp_path: Path) -> None:
    for number, mount in enumerate((parse_tmpfs("/new"), file_bind("/srv/new"))):
        with pytest.raises(UnsupportedError, match="cannot be made in a read-only rootfs: use --rootfs overlay"):
            planned(tmp_path / str(number), ContainerSettings(mounts=(mount,)), readonly=True)
    mounts = (parse_tmpfs("/srv"), file_bind("/srv/new"), file_bind("/etc/hosts"))
    assert "/srv/new" in destinations(planned(tmp_path, ContainerSettings(mounts=mounts), readonly=True)[0])


def test_a_mount_takes_the_place_of_another_one(tmp_path: Path) -> None:
    mounts = (parse_tmpfs("/dev/shm:size=1g"), parse_tmpfs("/srv"), file_bind("/etc/hosts"))
    made, _ = planned(tmp_path, ContainerSettings(mounts=mounts), readonly=True, volumes=("/srv", "/srv/"))
    assert len(destinations(made)) == len(set(destinations(made)))
    (shm,) = (each for each in made.spec.mounts if each.destination == "/dev/shm")
    assert "size=1g" in shm.options
    assert made.volumes.copied == ()
    assert set(made.files) == {"hostname"}


def test_a_mount_comes_after_those_that_would_hide_it(tmp_path: Path) -> None:
    mounts = (parse_tmpfs("/srv/a/b"), parse_tmpfs("/srv"), parse_tmpfs("/srv/a"))
    made = destinations(planned(tmp_path, ContainerSettings(mounts=mounts))[0])
    assert made.index("/srv") < made.index("/srv/a") < made.index("/srv/a/b")
    assert made.index("/dev") < made.index("/dev/shm")


@pytest.mark.parametrize(
    ("members", "readonly", "files", "warned"),
    [
        (_FILES, True, {"/etc/hostname", "/etc/hosts"}, 0),
        ([], True, set(), 0),
        ([], False, {"/etc/hostname", "/etc/hosts"}, 0),
        ([symlink(b"etc/hosts", b"../run/hosts")], False, {"/etc/hostname", "/run/hosts"}, 0),
        ([symlink(b"etc/hosts", b"/proc/self/x")], False, {"/etc/hostname"}, 1),
        ([symlink(b"etc/hosts", b"hosts")], False, {"/etc/hostname"}, 1),
        ([directory(b"etc/hosts")], False, {"/etc/hostname"}, 1),
    ],
)
def test_the_files_of_an_engine(
    tmp_path: Path, members: list[bytes], readonly: bool, files: set[str], warned: int
) -> None:
    made, warnings = planned(tmp_path, members=members, readonly=readonly)
    binds = [each for each in made.spec.mounts if each.source.startswith("files/")]
    assert {each.destination for each in binds} == files
    assert all(("ro" if readonly else "rw") in each.options for each in binds)
    assert len(warnings) == warned
    assert all("is left as it is in the image" in each for each in warnings)


def test_a_host_cannot_be_added_where_its_file_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"^--add-host"):
        planned(tmp_path, ContainerSettings(added_hosts=(("::1", "db"),)), [], readonly=True)


@pytest.mark.parametrize("rootless", [False, True])
def test_the_network_is_none_unless_it_is_the_host_s(tmp_path: Path, rootless: bool) -> None:
    for network, own in (("none", True), ("host", False)):
        settings = ContainerSettings(network=network)  # type: ignore[arg-type]
        made, _ = planned(tmp_path / network, settings, rootless=rootless)
        assert [each.type for each in made.spec.linux.namespaces].count("network") == own


def test_limits(tmp_path: Path) -> None:
    settings = ContainerSettings(memory=64 << 20, cpus=1.5, pids=7)
    resources = planned(tmp_path / "root", settings)[0].spec.linux.resources
    assert resources
    assert (resources.memory, resources.pids) == (Memory(limit=64 << 20), Pids(limit=7))
    assert resources.cpu == Cpu(quota=150_000, period=100_000)
    assert resources.devices == (DeviceRule(allow=False, access="rwm"),)
    rootless = planned(tmp_path / "rootless", settings, rootless=True)[0].spec.linux.resources
    assert rootless
    assert (rootless.memory, rootless.devices) == (Memory(limit=64 << 20), ())
    assert planned(tmp_path / "none", rootless=True)[0].spec.linux.resources is None


def test_a_device_is_made_or_bound(tmp_path: Path) -> None:
    made = planned(tmp_path / "root", ContainerSettings(devices=(_ZERO,)))[0].spec
    (node,) = made.linux.devices
    assert (node.path, node.type, node.major, node.minor, node.file_mode) == ("/dev/z", "c", 1, 5, 0o666)
    assert made.linux.resources
    assert made.linux.resources.devices[1:] == (DeviceRule(allow=True, type="c", major=1, minor=5, access="r"),)
    made = planned(tmp_path / "rootless", ContainerSettings(devices=(_ZERO,)), rootless=True)[0].spec
    assert made.linux.devices == ()
    (bound,) = (each for each in made.mounts if each.destination == "/dev/z")
    assert (bound.type, bound.source, "ro" in bound.options) == ("bind", "/dev/zero", True)


def test_added_capabilities_survive_for_another_user_than_root(tmp_path: Path) -> None:
    settings = ContainerSettings(cap_add=("CAP_NET_RAW",), cap_drop=("ALL",))
    root = planned(tmp_path / "root", settings)[0].spec.process.capabilities
    assert (root.bounding, root.effective, root.ambient) == (("CAP_NET_RAW",), ("CAP_NET_RAW",), ())
    user = planned(tmp_path / "user", settings, user="7")[0].spec.process.capabilities
    assert (user.inheritable, user.ambient) == (("CAP_NET_RAW",), ("CAP_NET_RAW",))


def test_privileged_hides_and_protects_nothing(tmp_path: Path) -> None:
    made = planned(tmp_path, ContainerSettings(privileged=True, cap_drop=("CAP_BPF",)))[0].spec
    assert (made.linux.masked_paths, made.linux.readonly_paths, made.process.no_new_privileges) == ((), (), False)
    assert "CAP_BPF" not in made.process.capabilities.effective
    assert "ro" not in next(each for each in made.mounts if each.destination == "/sys").options
    assert made.linux.resources
    assert DeviceRule(allow=True, access="rwm") in made.linux.resources.devices


def test_an_init_runs_the_command_and_is_not_the_command(tmp_path: Path) -> None:
    made, _ = planned(tmp_path, ContainerSettings(init="/usr/bin/tini-static"))
    assert made.spec.process.args == ("/dev/ocifs-init", "--", "/x")
    assert made.execution.command == "/x"
    (program,) = (each for each in made.spec.mounts if each.destination == "/dev/ocifs-init")
    assert (program.source, "ro" in program.options) == ("/usr/bin/tini-static", True)


def test_images_are_mounted_once(tmp_path: Path) -> None:
    mounts = [
        RequestedMount(kind="image", source=name, destination=f"/{number}", options=("ro",))
        for number, name in enumerate(["a", "b", "a"])
    ]
    made, _ = planned(tmp_path, ContainerSettings(mounts=tuple(mounts)))
    assert made.images == ("a", "b")
    assert [each.source for each in made.spec.mounts if each.source.startswith("images/")] == [
        "images/0",
        "images/1",
        "images/0",
    ]
