"""Plan a container: its config.json, and the files, volumes and other images that its bundle needs.

The image's config comes first, then the user's settings, then the mounts. Every mount destination is resolved and
checked in the tree image. This module writes nothing.
"""

from collections.abc import Callable, Sequence

import msgspec
from msgspec.structs import replace

from ocifs.bundle.command import Execution
from ocifs.bundle.config import Host, runtime_spec
from ocifs.bundle.container_files import MountedSource
from ocifs.bundle.host_files import host_files
from ocifs.bundle.mount_destinations import check_destinations, directories_of, names_of, resolve_destination
from ocifs.bundle.overrides import Overrides
from ocifs.bundle.paths import normalised
from ocifs.bundle.requested_mounts import RequestedMount, refuse_duplicates
from ocifs.bundle.runtime_spec import Mount, Spec
from ocifs.bundle.settings import ContainerSettings, customised, with_mounts
from ocifs.bundle.volumes import Volumes, find_volumes
from ocifs.errors import NotFoundError, UnsupportedError
from ocifs.image.passwd import Accounts
from ocifs.image.rootfs import Rootfs
from ocifs.spec.config import ImageConfig

FILES = "files"
"""Directory of the bundle with the files that an engine supplies."""
IMAGES = "images"
"""Directory of the bundle with the mountpoints of other images, named 0, 1, …"""
_FILE_OPTIONS = ("bind", "rprivate", "nosuid", "nodev", "noexec")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A container that can be made."""

    spec: Spec
    volumes: Volumes
    files: dict[str, bytes]
    """Contents by name in the directory `files`."""
    images: tuple[str, ...]
    """References of the images to mount read-only in `images/N`."""
    execution: Execution


def plan(
    config: ImageConfig,
    rootfs: Rootfs,
    overrides: Overrides,
    settings: ContainerSettings,
    host: Host,
    warn: Callable[[str], None],
) -> Plan:
    """Plan a container of an image. Call `warn` for each fault of its config.

    Raises:
        OcifsError: As `runtime_spec`, `find_volumes` and `check_destinations`.
    """
    spec = runtime_spec(config, Accounts.of(rootfs, rootfs.limits), overrides, host, warn)
    command = spec.process.args[0]
    spec = customised(spec, settings, rootless=host.rootless is not None)
    requested = _resolved(settings.mounts, rootfs)
    taken = {each.destination for each in (*settings.mounts, *requested)}
    files = _files(settings, overrides.hostname, spec, requested, rootfs, warn)
    paths = [each for each in config.config.volumes if normalised(each) not in taken]
    volumes = find_volumes(paths, rootfs, rootfs.limits, warn, readonly=host.readonly)
    references = [*dict.fromkeys(each.source for each in requested if each.kind == "image")]
    others = [
        *(_file_mount(path, name, readonly=host.readonly) for path, (name, _) in files.items()),
        *(_mount(each, references) for each in requested),
    ]
    not_directories = {*files, *(each.destination for each in spec.mounts if each.type == "bind")}
    not_directories |= {each.destination for each in requested if each.is_file}
    spec = with_mounts(spec, others)
    hiding = {each.destination: _mounted(each) for each in spec.mounts}
    spec = check_destinations(with_mounts(spec, volumes.mounts()), rootfs, not_directories)
    user = spec.process.user
    return Plan(
        spec=spec,
        volumes=volumes,
        files=dict(files.values()),
        images=tuple(references),
        execution=Execution(
            command=command,
            path=_path_variable(spec),
            cwd=spec.process.cwd,
            uid=user.uid,
            gids=(user.gid, *user.additional_gids),
            rootless=host.rootless is not None,
            mounts=hiding,
        ),
    )


def _resolved(mounts: Sequence[RequestedMount], rootfs: Rootfs) -> list[RequestedMount]:
    """Return the mounts with their destinations resolved in the image, but those below another mount."""
    resolved: list[RequestedMount] = []
    for mount in sorted(mounts, key=lambda each: each.destination.count("/")):
        path = mount.destination
        if not any(path.startswith(f"{above.destination}/") for above in resolved):
            path = resolve_destination(path, rootfs)
        resolved.append(replace(mount, destination=path))
    try:
        refuse_duplicates(resolved)
    except ValueError as error:
        raise UnsupportedError(f"{error}, or name it without symlinks of the image") from None
    return resolved


def _mount(requested: RequestedMount, references: Sequence[str]) -> Mount:
    if requested.kind == "tmpfs":
        return Mount(destination=requested.destination, type="tmpfs", source="tmpfs", options=requested.options)
    source = requested.source
    if requested.kind == "image":
        source = f"{IMAGES}/{references.index(source)}"
    return Mount(destination=requested.destination, type="bind", source=source, options=requested.options)


def _mounted(mount: Mount) -> MountedSource:
    """Return what a command finds at a mount. Only the runtime knows what it makes in /dev."""
    executable = "noexec" not in mount.options
    if mount.type == "bind" and mount.source.startswith("/"):
        return MountedSource(host=mount.source, executable=executable)
    if mount.type == "bind" and mount.source.startswith(f"{IMAGES}/"):
        return MountedSource(image=mount.source, executable=executable)
    return MountedSource(empty=mount.type == "tmpfs" and mount.destination != "/dev", executable=executable)


def _files(
    settings: ContainerSettings,
    hostname: str,
    spec: Spec,
    requested: Sequence[RequestedMount],
    rootfs: Rootfs,
    warn: Callable[[str], None],
) -> dict[str, tuple[str, bytes]]:
    """Return the (name, content) of each file by its destination; skip those that the image has no room for."""
    files = {}
    for path, content in host_files(settings.network, hostname, settings.added_hosts).items():
        if any(path == each.destination or path.startswith(f"{each.destination}/") for each in requested):
            continue
        name = path.rpartition("/")[2]
        try:
            destination = resolve_destination(path, rootfs)
        except (NotFoundError, UnsupportedError) as error:
            warn(f"{path} is left as it is in the image: {error}")
            continue
        names = names_of(destination)
        count, obstacle = directories_of(rootfs, names)
        if count == len(names) or (obstacle is not None and count < len(names) - 1):
            warn(f"{path} is left as it is in the image: a file cannot be mounted there")
        elif obstacle is None and spec.root.readonly:
            if name == "hosts" and settings.added_hosts:
                raise UnsupportedError("--add-host: the image has no /etc/hosts, and its rootfs is read-only")
        else:
            files[destination] = (name, content)
    return files


def _file_mount(destination: str, name: str, *, readonly: bool) -> Mount:
    options = (*_FILE_OPTIONS, "ro" if readonly else "rw")
    return Mount(destination=destination, type="bind", source=f"{FILES}/{name}", options=options)


def _path_variable(spec: Spec) -> str:
    return next((each.removeprefix("PATH=") for each in spec.process.env if each.startswith("PATH=")), "")
