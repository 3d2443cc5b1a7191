"""The members of config.json that ocifs writes (runtime-spec config.md, config-linux.md).

The default is the output of `runc spec` with podman's capabilities; `rootless` converts it as `runc spec --rootless`
does.
"""

import msgspec
from msgspec.structs import replace

_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
"""Podman's (containers.conf(5), `default_capabilities`): Docker's without AUDIT_WRITE, MKNOD and NET_RAW."""


class _Object(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A JSON object. Members with their default, which is always an empty value, are omitted."""


class User(_Object, frozen=True, kw_only=True):
    """The IDs of the process, as seen in the container."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    umask: int | None = None


class Capabilities(_Object, frozen=True, kw_only=True):
    """capabilities(7)."""

    bounding: tuple[str, ...]
    effective: tuple[str, ...]
    permitted: tuple[str, ...]
    inheritable: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(_Object, frozen=True, kw_only=True):
    """getrlimit(2)."""

    type: str
    hard: int
    soft: int


class Process(_Object, frozen=True, kw_only=True):
    """The process in the container."""

    terminal: bool = False
    user: User
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    capabilities: Capabilities
    rlimits: tuple[Rlimit, ...]
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    """proc_pid_oom_score_adj(5)."""


class Root(_Object, frozen=True, kw_only=True):
    """The rootfs; `path` is relative to the bundle."""

    path: str
    readonly: bool = False


class Mount(_Object, frozen=True, kw_only=True):
    """A file system that the runtime mounts in the container."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...] = ()


class IDMapping(_Object, frozen=True, kw_only=True):
    """user_namespaces(7)."""

    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int


class DeviceRule(_Object, frozen=True, kw_only=True):
    """A rule of the device cgroup; without numbers, for all devices."""

    allow: bool
    type: str = ""
    major: int | None = None
    minor: int | None = None
    access: str


class Memory(_Object, frozen=True, kw_only=True):
    """Bytes that the container may use."""

    limit: int


class Cpu(_Object, frozen=True, kw_only=True):
    """Microseconds of processor time in each period of so many microseconds."""

    quota: int
    period: int


class Pids(_Object, frozen=True, kw_only=True):
    """The number of processes and threads."""

    limit: int


class Resources(_Object, frozen=True, kw_only=True):
    """cgroups(7)."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None


class DeviceNode(_Object, frozen=True, kw_only=True):
    """A device node that the runtime makes."""

    path: str
    type: str
    major: int
    minor: int
    file_mode: int
    uid: int
    gid: int


class Namespace(_Object, frozen=True, kw_only=True):
    """namespaces(7)."""

    type: str


class Linux(_Object, frozen=True, kw_only=True):
    """The settings specific to Linux."""

    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    resources: Resources | None = None
    namespaces: tuple[Namespace, ...]
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()


class Spec(_Object, frozen=True, kw_only=True):
    """A config.json."""

    oci_version: str
    process: Process
    root: Root
    hostname: str
    mounts: tuple[Mount, ...]
    annotations: dict[str, str] = {}
    linux: Linux


def to_json(spec: Spec) -> bytes:
    """Serialise to the bytes of config.json."""
    return msgspec.json.format(msgspec.json.encode(spec), indent=2) + b"\n"


def default_spec(*, cgroup2: bool) -> Spec:
    """Return what `runc spec` writes, but with other capabilities; `cgroup2`: only cgroup version 2 is mounted."""
    namespaces = ("pid", "network", "ipc", "uts", "mount", *(("cgroup",) if cgroup2 else ()))
    return Spec(
        oci_version="1.0.2",
        process=Process(
            terminal=True,
            user=User(uid=0, gid=0),
            args=("sh",),
            env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"),
            cwd="/",
            capabilities=Capabilities(bounding=_CAPABILITIES, effective=_CAPABILITIES, permitted=_CAPABILITIES),
            rlimits=(Rlimit(type="RLIMIT_NOFILE", hard=1024, soft=1024),),
            no_new_privileges=True,
        ),
        root=Root(path="rootfs", readonly=True),
        hostname="runc",
        mounts=_MOUNTS,
        linux=Linux(
            resources=Resources(devices=(DeviceRule(allow=False, access="rwm"),)),
            namespaces=tuple(Namespace(type=each) for each in namespaces),
            masked_paths=_MASKED,
            readonly_paths=("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"),
        ),
    )


def rootless(spec: Spec, uid: int, gid: int) -> Spec:
    """Convert the spec for an unprivileged runtime: container root is `uid` and `gid`, the only user mapped."""
    namespaces = [each for each in spec.linux.namespaces if each.type not in {"network", "user"}]
    return replace(
        spec,
        mounts=tuple(_unprivileged(mount) for mount in spec.mounts),
        linux=replace(
            spec.linux,
            uid_mappings=(IDMapping(container_id=0, host_id=uid, size=1),),
            gid_mappings=(IDMapping(container_id=0, host_id=gid, size=1),),
            resources=None,
            namespaces=(*namespaces, Namespace(type="user")),
        ),
    )


def _unprivileged(mount: Mount) -> Mount:
    if mount.destination == "/sys":  # mounting a new sysfs needs a new network namespace
        return Mount(
            destination="/sys", type="none", source="/sys", options=("rbind", "nosuid", "noexec", "nodev", "ro")
        )
    return replace(mount, options=tuple(each for each in mount.options if not each.startswith(("uid=", "gid="))))


_MOUNTS = (
    Mount(destination="/proc", type="proc", source="proc"),
    Mount(
        destination="/dev", type="tmpfs", source="tmpfs", options=("nosuid", "strictatime", "mode=755", "size=65536k")
    ),
    Mount(
        destination="/dev/pts",
        type="devpts",
        source="devpts",
        options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    Mount(
        destination="/dev/shm",  # noqa: S108 - in the container
        type="tmpfs",
        source="shm",
        options=("nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
    ),
    Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=("nosuid", "noexec", "nodev")),
    Mount(destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev", "ro")),
    Mount(
        destination="/sys/fs/cgroup",
        type="cgroup",
        source="cgroup",
        options=("nosuid", "noexec", "nodev", "relatime", "ro"),
    ),
)
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
    "/sys/devices/virtual/tpm",
)
