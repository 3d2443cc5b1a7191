"""From an image's config to a config.json (image-spec conversion.md): values in, a value out.

What the image says replaces the default, and what the user says replaces both. Labels become annotations, except those
by which an image would tell the runtime on the host what to do.
"""

import os
import stat
from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from ocifs.bundle.runtime_spec import Mount, Spec, User, default_spec, rootless
from ocifs.bundle.user import Accounts, resolve_user
from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, UnsupportedError
from ocifs.image.rootfs import Rootfs
from ocifs.spec.config import ExecutionParameters, ImageConfig
from ocifs.spec.document import shown

_ANNOTATION = "org.opencontainers.image."
_OBEYED = ("run.oci.", "org.systemd.property.", "org.criu.")
"""Annotations that crun and runc take for orders."""
_VOLUME_OPTIONS = ("rw", "nosuid", "nodev", "noexec", "relatime")


class Overrides(msgspec.Struct, frozen=True, kw_only=True):
    """What the user wants otherwise than the image; None and empty: as the image has it."""

    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    user: str | None = None
    cwd: str | None = None
    hostname: str = "ocifs"
    terminal: bool = True


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What the bundle is made for."""

    readonly: bool
    """Whether the rootfs cannot be written."""
    rootless: tuple[int, int] | None = None
    """uid and gid of the user whose runtime has no privileges; None: it has."""
    cgroup2: bool = False
    """Whether cgroups are of version 2 alone."""


def runtime_spec(
    image: ImageConfig, accounts: Accounts, overrides: Overrides, host: Host, warn: Callable[[str], None]
) -> Spec:
    """Return the config.json of a container of the image; `warn` is told what is left out.

    Raises:
        UnsupportedError: The image is not for Linux, or its user cannot be in a rootless container.
        InvalidImageError: A member of the config makes no sense.
        NotFoundError: There is no such user, or nothing to run.
    """
    if image.os != "linux":
        raise UnsupportedError(f"the image is for {shown(image.os) or 'no system'}: containers need one for linux")
    config = image.config
    spec = default_spec(cgroup2=host.cgroup2)
    who = resolve_user(config.user if overrides.user is None else overrides.user, accounts)
    env = _environment(spec.process.env) | _environment(config.env)
    if who.home:
        env.setdefault("HOME", who.home)
    cwd = config.working_dir or "/" if overrides.cwd is None else overrides.cwd
    spec = replace(
        spec,
        process=replace(
            spec.process,
            terminal=overrides.terminal,
            user=User(uid=who.uid, gid=who.gid, additional_gids=who.additional_gids),
            args=_arguments(config, overrides),
            env=tuple(f"{name}={value}" for name, value in (env | dict(overrides.env)).items()),
            cwd=_inner_path(cwd, "working directory"),
        ),
        root=replace(spec.root, readonly=host.readonly),
        hostname=overrides.hostname,
        mounts=spec.mounts + tuple(_volume(path) for path in sorted(config.volumes)),
        annotations=_annotations(image, warn),
    )
    if host.rootless is None:
        return spec
    if (who.uid, who.gid) != (0, 0):
        raise UnsupportedError(
            f"user {who.uid}:{who.gid} cannot be in a rootless container, where only root is: give --user 0:0"
        )
    spec = rootless(spec, *host.rootless)
    return replace(spec, process=replace(spec.process, user=User(uid=0, gid=0)))


def check_mountpoints(spec: Spec, rootfs: Rootfs) -> None:
    """Make sure that a read-only rootfs has the directories that the runtime would otherwise make.

    Raises:
        UnsupportedError: One is missing.
    """
    made: list[str] = []
    for path in (*(mount.destination for mount in spec.mounts), spec.process.cwd):
        if not any(path.startswith(f"{above}/") for above in made) and not _is_directory(rootfs, path):
            raise UnsupportedError(
                f"{shown(path)} is no directory of the image, and cannot be made in a read-only rootfs: "
                "use --rootfs overlay or tmpfs"
            )
        made.append(path)


def _is_directory(rootfs: Rootfs, path: str) -> bool:
    try:
        return stat.S_ISDIR(rootfs.tree.inode(rootfs.lookup(path)).mode)
    except NotFoundError:
        return False


def _arguments(config: ExecutionParameters, overrides: Overrides) -> tuple[str, ...]:
    arguments = overrides.args or config.entrypoint + config.cmd
    if not arguments or not arguments[0]:
        raise NotFoundError("the image names no command to run: give one")
    return tuple(_text(each, "command") for each in arguments)


def _environment(variables: tuple[str, ...]) -> dict[str, str]:
    env = {}
    for variable in variables:
        name, equals, value = _text(variable, "environment").partition("=")
        if not name or not equals:
            raise InvalidImageError(f"'{shown(variable)}' in the image's environment is not NAME=VALUE")
        env[name] = value
    return env


def _volume(path: str) -> Mount:
    destination = _inner_path(path, "volume")
    if destination == "/":
        raise InvalidImageError("volume '/' would hide the whole image")
    return Mount(destination=destination, type="tmpfs", source="none", options=_VOLUME_OPTIONS)


def _inner_path(path: str, what: str) -> str:
    """Return an absolute path in the container, normalised: a relative one, or one with `..`, may mean any place."""
    if not _text(path, what).startswith("/") or ".." in path.split("/"):
        raise InvalidImageError(f"{what} '{shown(path)}' is not an absolute path without '..'")
    return "/" + os.path.normpath(path).lstrip("/")


def _text(text: str, what: str) -> str:
    if "\0" in text:
        raise InvalidImageError(f"{what} '{shown(text)}' holds a NUL character")
    return text


def _annotations(image: ImageConfig, warn: Callable[[str], None]) -> dict[str, str]:
    implicit = {
        "os": image.os,
        "architecture": image.architecture,
        "variant": image.variant,
        "os.version": image.os_version,
        "os.features": ",".join(image.os_features),
        "author": image.author,
        "created": image.created,
        "stopSignal": image.config.stop_signal,
        "exposedPorts": ",".join(sorted(image.config.exposed_ports)),
    }
    annotations = {_ANNOTATION + name: value for name, value in implicit.items() if value}
    for name, value in image.config.labels.items():
        if name.startswith(_OBEYED):
            warn(f"label '{shown(name)}' is left out: the runtime would act on it")
        elif name:
            annotations[name] = value
    return annotations


def parse_environment(variables: tuple[str, ...], inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a user gives as NAME=VALUE, or as NAME for the value it has in `inherited`.

    Raises:
        OcifsError: It is neither.
    """
    env = {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not name or "\0" in variable:
            raise OcifsError(f"--env '{shown(variable)}' is neither NAME=VALUE nor NAME")
        if equals:
            env[name] = value
        elif name in inherited:
            env[name] = inherited[name]
    return env
