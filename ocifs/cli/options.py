"""The options that several verbs share, and what they make: a store, an opened image."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from ocifs.errors import NotFoundError, printable_path
from ocifs.spec.platform import Platform
from ocifs.store import DEFAULT_MAX_SIZE, Store, default_directory

if TYPE_CHECKING:
    from ocifs.image.opening import Image

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d{1,15})\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


class Size(click.ParamType[int]):
    """A number of bytes: `64MiB`, `10g`, `4096`; units are powers of 1024."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is not a size; write 64MiB or 10GiB", param, ctx)
        return int(match[1]) * _UNITS[match[2].lower()]


class PlatformType(click.ParamType[Platform]):
    """OS/ARCH[/VARIANT]."""

    name = "platform"

    def convert(self, value: str | Platform, param: click.Parameter | None, ctx: click.Context | None) -> Platform:
        """Parse."""
        try:
            return value if isinstance(value, Platform) else Platform.parse(value)
        except NotFoundError as error:
            self.fail(str(error), param, ctx)


cache_dir_option = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="OCIFS_CACHE_DIR",
    show_envvar=True,
    help="Where indexes are kept.  [default: $XDG_CACHE_HOME/ocifs]",
)
max_cache_size_option = click.option(
    "--max-cache-size",
    type=Size(),
    default=f"{DEFAULT_MAX_SIZE >> 30}GiB",
    envvar="OCIFS_MAX_CACHE_SIZE",
    show_envvar=True,
    show_default=True,
    help="Least recently used indexes go when the cache is larger.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def image_options(command: F) -> F:
    """Add what every verb that opens an image takes."""
    for add in (
        max_cache_size_option,
        cache_dir_option,
        click.option(
            "--platform",
            type=PlatformType(),
            metavar="OS/ARCH[/VARIANT]",
            help="Which image, where there are several.  [default: this machine's]",
        ),
    ):
        command = add(command)
    return command


def mount_options(command: F) -> F:
    """Add what every verb that mounts an image takes."""
    for add in (
        click.option(
            "--log",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Where the mount writes what went wrong.  [default: ocifs.log in the runtime directory]",
        ),
        click.option(
            "--read-timeout",
            type=click.IntRange(1, 86400),
            default=60,
            show_default=True,
            metavar="SECONDS",
            help="A read that takes longer fails (EIO).",
        ),
        click.option("--span-cache", type=Size(), default="64MiB", show_default=True, help="Memory for decoded bytes."),
        click.option(
            "--engine",
            type=click.Choice(["auto", "erofs", "fuse"]),
            default="auto",
            envvar="OCIFS_ENGINE",
            show_envvar=True,
            show_default=True,
            help="erofs: the kernel does all but decode (root, Linux 6.12 or later); auto: that where it can be.",
        ),
    ):
        command = add(command)
    return command


def open_store(cache_dir: Path | None, max_cache_size: int) -> Store:
    """Open the cache; say on stderr when it is of no use."""
    return Store(cache_dir or default_directory(), max_size=max_cache_size, warn=warn)


def open_for_command(
    image: str,
    platform: Platform | None,
    cache_dir: Path | None,
    max_cache_size: int,
    *,
    layer: int | None = None,
    changes_only: bool = False,
) -> "Image":
    """Open an image for a verb: from the cache, or with a progress bar if somebody watches."""
    from ocifs.cli.progress import indexing
    from ocifs.image.opening import Options, open_image

    with indexing() as progress:
        return open_image(
            image,
            Options(
                store=open_store(cache_dir, max_cache_size),
                platform=platform,
                layer=layer,
                changes_only=changes_only,
                warn=warn,
                progress=progress,
            ),
        )


class View(NamedTuple):
    """An image, and what of it a verb looks into."""

    image: str
    platform: Platform | None
    cache_dir: Path | None
    max_cache_size: int
    layer: int | None
    only_layer: int | None

    def open(self) -> "Image":
        """Open it."""
        if self.layer is not None and self.only_layer is not None:
            raise click.UsageError("--layer and --only-layer exclude each other")
        return open_for_command(
            self.image,
            self.platform,
            self.cache_dir,
            self.max_cache_size,
            layer=self.layer if self.only_layer is None else self.only_layer,
            changes_only=self.only_layer is not None,
        )


def view_options(command: F) -> F:
    """Add what every verb that looks into an image takes, IMAGE included, and give it to the verb as one `View`."""

    @functools.wraps(command)
    def with_view(
        image: str,
        platform: Platform | None,
        cache_dir: Path | None,
        max_cache_size: int,
        layer: int | None,
        only_layer: int | None,
        **others: object,
    ) -> object:
        return command(View(image, platform, cache_dir, max_cache_size, layer, only_layer), **others)

    for add in (
        click.argument("image"),
        click.option("--only-layer", type=int, metavar="N", help="Only what layer N changes, whiteouts included."),
        click.option("--layer", type=int, metavar="N", help="The image as of layer N; 0 is the base, -1 the last."),
        image_options,
    ):
        with_view = add(with_view)
    return with_view  # type: ignore[return-value] # of other parameters, as click calls it


def warn(message: str) -> None:
    """Print a warning on stderr, on one line."""
    click.echo(f"ocifs: warning: {printable_path(message)}", err=True)
