"""The settings of a container that do not come from its image: mounts, network, privileges, devices and limits.

`customised` changes a spec that was made of the image's config. It looks nothing up in the image.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from ocifs.bundle.capabilities import ALL, bounding_set, changed
from ocifs.bundle.devices import DeviceRequest, host_devices
from ocifs.bundle.init import DESTINATION as INIT
from ocifs.bundle.requested_mounts import RequestedMount
from ocifs.bundle.runtime_spec import (
    Capabilities,
    Cpu,
    DeviceNode,
    DeviceRule,
    Memory,
    Mount,
    Namespace,
    Pids,
    Resources,
    Spec,
)

_PERIOD = 100_000
"""Microseconds; the kernel's default period of the processor quota."""
_ALL_DEVICES = DeviceRule(allow=True, access="rwm")


class ContainerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The user's settings; the defaults are those of `ocifs run`."""

    mounts: tuple[RequestedMount, ...] = ()
    network: Literal["none", "host"] = "none"
    added_hosts: tuple[tuple[str, str], ...] = ()
    """(address, name)"""
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    devices: tuple[DeviceRequest, ...] = ()
    memory: int | None = None
    """Bytes."""
    cpus: float | None = None
    """Processors."""
    pids: int | None = None
    init: str | None = None
    """Path of a program of the host that becomes PID 1."""
    umask: int | None = None
    oom_score_adj: int | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    """(key, value)"""

    @property
    def limited(self) -> dict[str, str]:
        """The cgroup controllers that the limits need, each with its option."""
        options = {
            "memory": ("--memory", self.memory),
            "cpu": ("--cpus", self.cpus),
            "pids": ("--pids-limit", self.pids),
        }
        return {controller: option for controller, (option, value) in options.items() if value is not None}


def customised(spec: Spec, settings: ContainerSettings, *, rootless: bool) -> Spec:
    """Return the spec with the settings, but for the mounts of `ContainerSettings.mounts`."""
    devices = settings.devices
    if settings.privileged:
        spec = _privileged(spec)
        devices = tuple({each.path: each for each in (*host_devices(), *devices)}.values())
    spec = _with_network(_with_capabilities(spec, settings), settings.network)
    spec = _with_devices(spec, devices, rootless=rootless)
    spec = _with_process(_with_limits(spec, settings), settings)
    if settings.init is None:
        return spec
    program = Mount(
        destination=INIT, type="bind", source=settings.init, options=("bind", "rprivate", "ro", "nosuid", "nodev")
    )
    arguments = (INIT, "--", *spec.process.args)
    return replace(spec, mounts=(*spec.mounts, program), process=replace(spec.process, args=arguments))


def _with_process(spec: Spec, settings: ContainerSettings) -> Spec:
    user = spec.process.user if settings.umask is None else replace(spec.process.user, umask=settings.umask)
    process = replace(spec.process, user=user, oom_score_adj=settings.oom_score_adj)
    return replace(spec, process=process, annotations={**spec.annotations, **dict(settings.annotations)})


def with_mounts(spec: Spec, mounts: Sequence[Mount]) -> Spec:
    """Add mounts, in place of those with the same destination, and order all so that none hides another."""
    replaced = {each.destination for each in mounts}
    kept = [each for each in spec.mounts if each.destination not in replaced]
    return replace(spec, mounts=tuple(sorted([*kept, *mounts], key=lambda mount: mount.destination.count("/"))))


def _privileged(spec: Spec) -> Spec:
    mounts = tuple(
        replace(each, options=tuple(option for option in each.options if option != "ro"))
        if each.destination.startswith("/sys")
        else each
        for each in spec.mounts
    )
    return replace(
        spec,
        mounts=mounts,
        process=replace(spec.process, no_new_privileges=False),
        linux=replace(spec.linux, masked_paths=(), readonly_paths=()),
    )


def _with_capabilities(spec: Spec, settings: ContainerSettings) -> Spec:
    added = (*settings.cap_add, ALL) if settings.privileged else settings.cap_add
    if not added and not settings.cap_drop:
        return spec
    most = bounding_set() if ALL in added else 0
    names = changed(spec.process.capabilities.bounding, added, settings.cap_drop, most)
    # Without ambient capabilities another user than root would lose those that it is given when it starts the command.
    ambient = tuple(each for each in names if each in settings.cap_add or ALL in settings.cap_add)
    if spec.process.user.uid == 0:
        ambient = ()
    capabilities = Capabilities(bounding=names, effective=names, permitted=names, inheritable=ambient, ambient=ambient)
    return replace(spec, process=replace(spec.process, capabilities=capabilities))


def _with_network(spec: Spec, network: Literal["none", "host"]) -> Spec:
    others = tuple(each for each in spec.linux.namespaces if each.type != "network")
    own = (Namespace(type="network"),) if network == "none" else ()
    if network == "none" and others != spec.linux.namespaces:
        return spec  # it has one
    return replace(spec, linux=replace(spec.linux, namespaces=(*others, *own)))


def _with_devices(spec: Spec, devices: Sequence[DeviceRequest], *, rootless: bool) -> Spec:
    if not devices:
        return spec
    if rootless:  # who is not root on the host cannot make device nodes
        binds = tuple(
            Mount(
                destination=each.path,
                type="bind",
                source=each.source,
                options=("bind", "rprivate", "nosuid", "noexec", *([] if "w" in each.access else ["ro"])),
            )
            for each in devices
        )
        return replace(spec, mounts=(*spec.mounts, *binds))
    nodes = tuple(
        DeviceNode(
            path=each.path,
            type=each.kind,
            major=each.major,
            minor=each.minor,
            file_mode=each.mode,
            uid=each.uid,
            gid=each.gid,
        )
        for each in devices
    )
    rules = tuple(
        DeviceRule(allow=True, type=each.kind, major=each.major, minor=each.minor, access=each.access)
        for each in devices
    )
    resources = spec.linux.resources or Resources()
    resources = replace(resources, devices=(*resources.devices, *rules))
    return replace(spec, linux=replace(spec.linux, devices=nodes, resources=resources))


def _with_limits(spec: Spec, settings: ContainerSettings) -> Spec:
    resources = spec.linux.resources or Resources()
    if settings.privileged and resources.devices:
        resources = replace(resources, devices=(*resources.devices, _ALL_DEVICES))
    resources = replace(
        resources,
        memory=None if settings.memory is None else Memory(limit=settings.memory),
        cpu=None if settings.cpus is None else Cpu(quota=round(settings.cpus * _PERIOD), period=_PERIOD),
        pids=None if settings.pids is None else Pids(limit=settings.pids),
    )
    return replace(spec, linux=replace(spec.linux, resources=None if resources == Resources() else resources))
