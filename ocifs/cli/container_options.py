"""The options of commands that make a container, as `podman run` has them, and the values made of them."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import msgspec

from ocifs.bundle import requested_mounts
from ocifs.bundle.capabilities import check_changes, parse_capability
from ocifs.bundle.devices import parse_device
from ocifs.bundle.environment import parse_variable, read_variables
from ocifs.bundle.host_files import parse_added_host, parse_hostname
from ocifs.bundle.origin import RootfsKind
from ocifs.bundle.overrides import Overrides
from ocifs.bundle.requested_mounts import RequestedMount
from ocifs.bundle.settings import ContainerSettings
from ocifs.cli.command import Command, GroupedOption, OptionGroup, add_options
from ocifs.cli.container_values import (
    Parsed,
    parse_annotation,
    parse_cpus,
    parse_entrypoint,
    parse_memory,
    parse_name,
    parse_network,
    parse_oom_score_adj,
    parse_pids,
    parse_runtime,
    parse_umask,
    parse_user,
    parse_workdir,
)
from ocifs.cli.options import warn
from ocifs.cli.podman_flags import podman_flags
from ocifs.errors import printable_path

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_DEFAULTS = ContainerSettings()
_SELINUX = Path("/sys/fs/selinux/enforce")


NAME = Parsed("NAME", parse_name)
RUNTIME = Parsed("PROGRAM", parse_runtime)


class ContainerCommand(Command):
    """A command with `container_options`: a `-h` alone asks for help, and with a value it is the host name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; `-h` needs a value unless it is the only word."""
        return super().parse_args(ctx, ["--help"] if args == ["-h"] else args)


class ContainerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a container."""

    rootfs: RootfsKind | None
    """None: the default of the command."""
    rootless: bool
    tty: bool | None
    interactive: bool
    pull: str
    overrides: Overrides
    """Without the arguments, and without a terminal."""
    settings: ContainerSettings


def _container(values: dict[str, Any]) -> ContainerOptions:
    """Gather the values of the options. Raises UsageError if they contradict each other."""
    mounts: tuple[RequestedMount, ...] = (*values["volumes"], *values["mounts"], *values["tmpfs"])
    rootfs: RootfsKind | None = values["rootfs"]
    _check_conflicts(mounts, values["cap_add"], values["cap_drop"], values["added_hosts"])
    if values["read_only"] and rootfs not in {None, "mount"}:
        raise click.UsageError(f"--read-only and --rootfs {rootfs} exclude each other: leave one out")
    if _SELINUX.exists() and any(each.relabel for each in mounts):
        warn("options z and Z: ocifs does not change SELinux labels: use chcon(1), or `podman run -v`")
    return ContainerOptions(
        rootfs="mount" if values["read_only"] else rootfs,
        rootless=bool(os.geteuid()) if values["rootless"] is None else values["rootless"],
        tty=values["tty"],
        interactive=values["interactive"],
        pull=values["pull"],
        overrides=Overrides(
            entrypoint=values["entrypoint"],
            env=_variables(values["env_files"], values["env"]),
            unset_env=values["unset_env"],
            unset_all=values["unset_all"],
            user=values["user"],
            cwd=values["workdir"],
            hostname=values["hostname"],
            terminal=False,
        ),
        settings=ContainerSettings(
            mounts=mounts,
            init=_init() if values["init"] else None,
            **{name: values[name] for name in ContainerSettings.__struct_fields__ if name not in {"mounts", "init"}},
        ),
    )


class ContainerOption(GroupedOption):
    """An option of a container, which only a new bundle can take."""

    group = OptionGroup("container", _container, None)


_flag = functools.partial(click.option, cls=ContainerOption)


def _option(
    *names: str,
    metavar: str,
    parse: Callable[[str], object],
    help: str,  # noqa: A002 - as click names it
    details: str = "",
    multiple: bool = False,
    default: str | None = None,
) -> Callable[[F], F]:
    """Return an option with a value that `parse` checks."""
    return click.option(
        *names,
        cls=ContainerOption,
        details=details,
        metavar=metavar,
        type=Parsed(metavar, parse),
        help=help,
        multiple=multiple,
        default=default,
        show_default=default is not None,
    )


_OPTIONS: tuple[Callable[[F], F], ...] = (
    _flag("-i", "--interactive", is_flag=True, help="Keep a terminal on standard input open."),
    _flag("-t", "--tty/--no-tty", "tty", default=None, help="Allocate a terminal for the container."),
    _option(
        "-v", "--volume", "volumes",
        metavar="SRC:DST[:ro]", parse=requested_mounts.parse_volume, multiple=True,
        help="Bind a file or directory of the host.",
        details="SRC is absolute or begins with ./ or ../; options: ro, rw, z, Z, rbind, nosuid, … (repeatable).",
    ),
    _option(
        "--mount", "mounts",
        metavar="type=KIND,…", parse=requested_mounts.parse_mount, multiple=True,
        help="Mount a directory, a tmpfs or an image.",
        details="type=bind|tmpfs|image,source=SRC,target=DST[,ro]; an image is mounted read-only (repeatable).",
    ),
    _option(
        "--tmpfs", "tmpfs",
        metavar="DST[:OPTIONS]", parse=requested_mounts.parse_tmpfs, multiple=True,
        help="Mount an empty directory in memory.",
        details="Options: size=64m, mode=1777, ro, noexec, … (repeatable).",
    ),
    _option(
        "-e", "--env", "env",
        metavar="NAME[=VALUE]", parse=lambda text: parse_variable(text, os.environ), multiple=True,
        help="Set a variable; without VALUE, copy it.", details="Repeatable.",
    ),
    _option(
        "--env-file", "env_files",
        metavar="FILE", parse=lambda text: read_variables(Path(text), os.environ), multiple=True,
        help="Set the variables in FILE.", details="One on each line (repeatable).",
    ),
    _flag("--unsetenv", "unset_env", multiple=True, metavar="NAME", help="Leave a variable of the image out."),
    _flag("--unsetenv-all", "unset_all", is_flag=True, help="Leave all variables of the image out."),
    _option(
        "--entrypoint", "entrypoint",
        metavar="COMMAND", parse=parse_entrypoint,
        help="Replace the image's Entrypoint; '' clears it.", details="A program, or a JSON array of words.",
    ),
    _option("-w", "--workdir", "--cwd", "workdir", metavar="PATH", parse=parse_workdir, help="Working directory."),
    _option("-u", "--user", metavar="USER[:GROUP]", parse=parse_user, help="User to run as, by name or number."),
    _option("--umask", metavar="MASK", parse=parse_umask, help="File mode creation mask, e.g. 0027."),
    _option(
        "--net", "--network", "network",
        metavar="NET", parse=parse_network, default=_DEFAULTS.network,
        help="none: only loopback; or host.", details="host: the host's interfaces, hosts and resolv.conf.",
    ),
    _option(
        "-h", "--hostname",
        metavar="NAME", parse=parse_hostname, default=Overrides().hostname, help="The container's host name.",
    ),
    _option(
        "--add-host", "added_hosts",
        metavar="NAME:ADDRESS", parse=parse_added_host, multiple=True,
        help="Add a line to /etc/hosts.", details="Repeatable.",
    ),
    _flag("--read-only", is_flag=True, help="Use the mounted image alone as rootfs."),
    _option(
        "--cap-add",
        metavar="CAPABILITY", parse=parse_capability, multiple=True,
        help="Add a capability, or ALL.", details="Repeatable.",
    ),
    _option(
        "--cap-drop",
        metavar="CAPABILITY", parse=parse_capability, multiple=True,
        help="Drop a capability, or ALL.", details="Repeatable.",
    ),
    _flag(
        "--privileged",
        is_flag=True, help="All capabilities and devices.", details="Nothing in /proc and /sys is hidden or read-only.",
    ),
    _option("-m", "--memory", metavar="SIZE", parse=parse_memory, help="Limit the memory, e.g. 512m."),
    _option("--cpus", metavar="NUMBER", parse=parse_cpus, help="Limit the processors, e.g. 1.5."),
    _option("--pids-limit", "pids", metavar="NUMBER", parse=parse_pids, help="Limit the number of processes."),
    _option(
        "--oom-score-adj", metavar="NUMBER", parse=parse_oom_score_adj, help="Who is killed first if memory is short."
    ),
    _option(
        "--annotation", "annotations",
        metavar="KEY=VALUE", parse=parse_annotation, multiple=True,
        help="Add an annotation for the runtime.", details="Repeatable.",
    ),
    _option(
        "--device", "devices",
        metavar="HOST[:DEVICE]", parse=parse_device, multiple=True,
        help="Add a device node of the host.",
        details="HOST[:CONTAINER][:rwm]; the path in the container is below /dev (repeatable).",
    ),
    _flag("--init", is_flag=True, help="Run catatonit or tini as PID 1.", details="It reaps zombies."),
    _flag(
        "--pull",
        type=click.Choice(["always", "missing", "newer", "never"]),
        default="missing",
        metavar="POLICY",
        help="never: refuse an image in a registry.",
        details="always, missing, newer: ocifs looks a tag up and fetches missing blobs in any case.",
    ),
    _flag(
        "--rootfs",
        type=click.Choice(get_args(RootfsKind)),
        metavar="KIND",
        help="mount, overlay, tmpfs or copy.",
        details=(
            "mount: read-only, the default of bundle. overlay: keep writes in the bundle. tmpfs: discard writes, the "
            "default of run. copy: unpack the image."
        ),
    ),
    _flag(
        "--rootless/--no-rootless",
        default=None, help="For an unprivileged runtime.", details="The default, unless root runs ocifs.",
    ),
)  # fmt: skip


def container_options(command: F) -> F:
    """Add the options of commands that make a container; the command receives them as one `ContainerOptions`."""
    return add_options(_OPTIONS)(podman_flags(command))


def refuse_pull(container: ContainerOptions, image: str) -> None:
    """Refuse an image that is not on this machine with `--pull never`, also among the mounts.

    Raises:
        UsageError: One is in a registry, be it by a short name, or on a web server.
        OcifsError: As `reference_of`.
    """
    if container.pull != "never":
        return
    from ocifs.sources.naming import reference_of

    mounted = [each.source for each in container.settings.mounts if each.kind == "image"]
    for name in (image, *mounted):
        reference = reference_of(name)
        if reference.transport == "docker":
            full = "" if reference.text == name else f", {reference}"
            raise click.UsageError(
                f"--pull never: {printable_path(name)} is in a registry{full}: copy it into a layout with `skopeo copy`"
            )
        if reference.is_url:  # which may contain a password or a signature
            raise click.UsageError("--pull never: the image is in an archive on a web server: download it first")


def _variables(files: tuple[dict[str, str], ...], variables: tuple[tuple[str, str] | None, ...]) -> dict[str, str]:
    """Return all variables; the command line wins over files, and later ones over earlier ones."""
    merged: dict[str, str] = {}
    for each in files:
        merged |= each
    return merged | dict(each for each in variables if each is not None)


def _check_conflicts(
    mounts: tuple[RequestedMount, ...],
    cap_add: tuple[str, ...],
    cap_drop: tuple[str, ...],
    added_hosts: tuple[tuple[str, str], ...],
) -> None:
    try:
        requested_mounts.refuse_duplicates(mounts)
    except ValueError as error:
        raise click.UsageError(f"--volume, --mount, --tmpfs: {error}") from None
    try:
        check_changes(cap_add, cap_drop)
    except ValueError as error:
        raise click.UsageError(f"--cap-add, --cap-drop: {error}") from None
    if added_hosts and any(each.destination == "/etc/hosts" for each in mounts):
        raise click.UsageError("--add-host and a mount on /etc/hosts exclude each other: leave one out")


def _init() -> str:
    from ocifs.bundle.init import find_init

    return find_init()
