"""Convert an image's config to a runtime config.json (image-spec conversion.md).

The image overrides the defaults, and the user overrides both. Labels become annotations, except those with which an
image could control the runtime on the host. A fault in the config is a warning if the command can still run.
"""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from ocifs.bundle.overrides import Overrides
from ocifs.bundle.paths import absolute_path
from ocifs.bundle.runtime_spec import Spec, User, default_spec, rootless
from ocifs.bundle.user import resolve_user
from ocifs.errors import InvalidImageError, NotFoundError, UnsupportedError
from ocifs.image.passwd import Accounts
from ocifs.spec.config import ExecutionParameters, ImageConfig
from ocifs.spec.document import shown

_ANNOTATION = "org.opencontainers.image."
_OBEYED = ("run.oci.", "org.systemd.property.", "org.criu.")
"""Prefixes of annotations that crun and runc act on."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the kind of rootfs that the bundle is made for."""

    readonly: bool
    """Whether the rootfs is read-only."""
    rootless: tuple[int, int] | None = None
    """uid and gid of the user of an unprivileged runtime; None: the runtime is privileged."""
    cgroup2: bool = False
    """Whether only cgroup version 2 is mounted."""


def runtime_spec(
    image: ImageConfig, accounts: Accounts, overrides: Overrides, host: Host, warn: Callable[[str], None]
) -> Spec:
    """Return the config.json of a container of the image, without volumes. Call `warn` for each fault of the config.

    Raises:
        UnsupportedError: The image is not for Linux, or a rootless container would run as another user than root.
        InvalidImageError: The command or the working directory contains a NUL character.
        NotFoundError: The user does not exist, or there is no command.
    """
    if not image.os:
        warn("the image's config names no operating system: assuming linux")
    elif image.platform.normalized().os != "linux":
        raise UnsupportedError(f"the image is for {shown(image.os)}: containers need one for linux")
    config = image.config
    spec = default_spec(cgroup2=host.cgroup2)
    account = resolve_user(config.user if overrides.user is None else overrides.user, accounts)
    env = _environment(spec.process.env, warn) | _environment(config.env, warn)
    if account.home:
        env.setdefault("HOME", account.home)
    env = {} if overrides.unset_all else {name: env[name] for name in env if name not in overrides.unset_env}
    cwd = config.working_dir or "/" if overrides.cwd is None else overrides.cwd
    spec = replace(
        spec,
        process=replace(
            spec.process,
            terminal=overrides.terminal,
            user=User(uid=account.uid, gid=account.gid, additional_gids=account.additional_gids),
            args=_arguments(config, overrides),
            env=tuple(f"{name}={value}" for name, value in (env | dict(overrides.env)).items()),
            cwd=absolute_path(cwd, "working directory", warn),
        ),
        root=replace(spec.root, readonly=host.readonly),
        hostname=overrides.hostname,
        annotations=_annotations(image, warn),
    )
    if host.rootless is None:
        return spec
    if (account.uid, account.gid) != (0, 0):
        raise UnsupportedError("a rootless container has only root: use --user 0:0")
    spec = rootless(spec, *host.rootless)
    return replace(spec, process=replace(spec.process, user=User(uid=0, gid=0)))


def _arguments(config: ExecutionParameters, overrides: Overrides) -> tuple[str, ...]:
    # Docker writes an entrypoint of one empty word to reset the entrypoint of the base image.
    entrypoint = () if config.entrypoint == ("",) else config.entrypoint
    # As in podman and Docker, Cmd has no meaning for an entrypoint that is not the image's.
    arguments = entrypoint + config.cmd if overrides.entrypoint is None else overrides.entrypoint
    if overrides.args:
        arguments = (entrypoint if overrides.entrypoint is None else overrides.entrypoint) + overrides.args
    if not arguments:
        raise NotFoundError("the image names no command to run (Entrypoint and Cmd are empty): name one")
    if not arguments[0]:
        raise NotFoundError("the first word of the command is empty, so it names no command to run: name another")
    for each in arguments:
        if "\0" in each:
            raise InvalidImageError(f"command '{shown(each)}' contains a NUL character")
    return arguments


def _environment(variables: tuple[str, ...], warn: Callable[[str], None]) -> dict[str, str]:
    """Return the variables by name; the last one of a name counts. Skip, with a warning, what is not NAME=VALUE."""
    env = {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not name or not equals or "\0" in variable:
            warn(f"'{shown(variable)}' in the image's environment is skipped: it is not NAME=VALUE")
        else:
            env[name] = value
    return env


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
            warn(f"label '{shown(name)}' is dropped: the runtime would act on it")
        elif name:
            annotations[name] = value
    return annotations
