"""The options of commands that mount an image, gathered into one `ocifs.mount.options.MountOptions`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from ocifs.cli.command import GroupedOption, OptionGroup, add_options
from ocifs.cli.types import Size
from ocifs.mount.options import EngineChoice, MountOptions

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS = MountOptions()


def _mount_options(values: dict[str, Any]) -> MountOptions:
    """Gather the values of the options."""
    log: Path | None = values.pop("log")
    return MountOptions(log=None if log is None else str(log.absolute()), **values)


class _MountOption(GroupedOption):
    group = OptionGroup("mounting", _mount_options, None)


class _ServingOption(GroupedOption):
    group = _MountOption.group._replace(heading="Mount")


def _serving(cls: type[GroupedOption]) -> tuple[Callable[[F], F], ...]:
    option = functools.partial(click.option, cls=cls)
    return (
        option(
            "--engine",
            type=click.Choice(get_args(EngineChoice)),
            default=_DEFAULTS.engine,
            envvar="OCIFS_ENGINE",
            show_default=True,
            help="erofs: as root, Linux 6.12+.",
            details=(
                "erofs: served by the kernel, except decoding. fuse: the daemon serves names and bytes, for any user. "
                "auto: erofs if possible, else fuse."
            ),
        ),
        option(
            "--span-cache",
            type=Size(),
            default=_DEFAULTS.span_cache,
            show_default=True,
            help="Memory for decoded data.",
        ),
        option(
            "--read-timeout",
            type=click.IntRange(1, 86400),
            default=_DEFAULTS.read_timeout,
            show_default=True,
            metavar="SECONDS",
            help="Fail reads that take longer (EIO).",
        ),
        option(
            "--prefetch/--no-prefetch",
            default=_DEFAULTS.prefetch,
            show_default="yes" if _DEFAULTS.prefetch else "no",
            help="Fetch the rest in the background.",
            details="Then verify published indexes. --no-prefetch: fetch and verify only what is read.",
        ),
        option("--prefetch-rate", type=Size(), help="Limit that to SIZE bytes per second."),
        option(
            "--hot-pack",
            type=Size(),
            default=_DEFAULTS.hot_pack,
            show_default=True,
            help="Keep first reads decoded.",
            details="Up to SIZE, in the cache, as the hot pack of the image. 0: neither use nor record one.",
        ),
        option(
            "--log",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            show_default="in the runtime directory",
            help="Error log.",
            details="Its name is ocifs.log there. With --foreground the default is standard error.",
        ),
        option(
            "--no-service",
            "service",
            flag_value=False,
            default=_DEFAULTS.service,
            envvar="OCIFS_NO_SERVICE",
            help="Mount without the service.",
            details="The service of root serves mounts of the erofs engine, if it runs.",
        ),
    )


_option = functools.partial(click.option, cls=_MountOption)
_EXPOSING = (
    _option(
        "--replace",
        is_flag=True,
        help="Unmount what ocifs mounted there first.",
        details="Be it live or dead. Mounts in use, or of other programs, stay.",
    ),
    _option(
        "--survive",
        is_flag=True,
        help="Survive the end of the daemon (root only).",
        details="A keeper replaces the process that serves the mount when it dies. With the service, every mount does.",
    ),
    _option("--allow-other", is_flag=True, help="Let other users access the mount."),
    _option("--suid", is_flag=True, help="Honour setuid and file capabilities (root only)."),
    _option("--dev", is_flag=True, help="Honour device nodes (root only)."),
    _option("--noexec", "exec", flag_value=False, default=_DEFAULTS.exec, hidden=True),  # in favour of `-o noexec`
)


def serving_options(command: F) -> F:
    """Add the options for serving a mount; the command receives them as one `MountOptions`."""
    return add_options(_serving(_ServingOption))(command)


def mount_options(command: F) -> F:
    """Add the options for all fields of `MountOptions`, for a command that mounts where the user says."""
    return add_options((*_serving(_MountOption), *_EXPOSING))(command)
