"""From an image's config to a config.json (image-spec conversion.md): values in, a value out.

What the image says replaces the default, and what the user says replaces both. Labels become annotations, except those
by which an image would tell the runtime on the host what to do. A blemish that leaves a command to run is a warning.
"""

from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from ocifs.bundle.paths import absolute_path
from ocifs.bundle.runtime_spec import Spec, User, default_spec, rootless
from ocifs.bundle.user import resolve_user
from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, UnsupportedError
from ocifs.image.passwd import Accounts
from ocifs.spec.config import ExecutionParameters, ImageConfig
from ocifs.spec.document import shown

_ANNOTATION = "org.opencontainers.image."
_OBEYED = ("run.oci.", "org.systemd.property.", "org.criu.")
"""Annotations that crun and runc take for orders."""


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
    """Return the config.json of a container of the image, without volumes.

    `warn` is called for each blemish of the image's config.

    Raises:
        UnsupportedError: The image is not for Linux, or its user cannot be in a rootless container.
        InvalidImageError: The command or the working directory holds a NUL character.
        NotFoundError: There is no such user, or nothing to run.
    """
    if not image.os:
        warn("the image's config names no operating system: taken to be linux")
    elif image.platform.normalized().os != "linux":
        raise UnsupportedError(f"the image is for {shown(image.os)}: containers need one for linux")
    config = image.config
    spec = default_spec(cgroup2=host.cgroup2)
    who = resolve_user(config.user if overrides.user is None else overrides.user, accounts)
    env = _environment(spec.process.env, warn) | _environment(config.env, warn)
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
            cwd=absolute_path(cwd, "working directory", warn),
        ),
        root=replace(spec.root, readonly=host.readonly),
        hostname=overrides.hostname,
        annotations=_annotations(image, warn),
    )
    if host.rootless is None:
        return spec
    if (who.uid, who.gid) != (0, 0):
        raise UnsupportedError(
            f"user {who.uid}:{who.gid} cannot be in a rootless container, where only root is: use --user 0:0"
        )
    spec = rootless(spec, *host.rootless)
    return replace(spec, process=replace(spec.process, user=User(uid=0, gid=0)))


def _arguments(config: ExecutionParameters, overrides: Overrides) -> tuple[str, ...]:
    # An entrypoint of one empty word is how Docker writes that the entrypoint of the base image is gone.
    entrypoint = () if config.entrypoint == ("",) else config.entrypoint
    arguments = overrides.args or entrypoint + config.cmd
    if not arguments:
        raise NotFoundError("the image names no command to run (Entrypoint and Cmd are empty): name one")
    if not arguments[0]:
        raise NotFoundError("the first word of the command is empty, so it names no command to run: name another")
    for each in arguments:
        if "\0" in each:
            raise InvalidImageError(f"command '{shown(each)}' holds a NUL character")
    return arguments


def _environment(variables: tuple[str, ...], warn: Callable[[str], None]) -> dict[str, str]:
    """Return the variables by name, of each the last; what is not NAME=VALUE is skipped."""
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
