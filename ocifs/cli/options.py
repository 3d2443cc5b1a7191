"""The options that several commands share, and the values made of them: a store, an opened image."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import click
from msgspec.structs import replace

from ocifs.errors import InvalidImageError, NotFoundError, printable_path
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.sources.registry.access import Access
from ocifs.spec.platform import Platform
from ocifs.store import DEFAULT_MAX_SIZE, Store, default_directory

if TYPE_CHECKING:
    from ocifs.blobs.source import Source
    from ocifs.image.opening import Image
    from ocifs.options import Options as ImageOptions
    from ocifs.sources.reference import Reference
    from ocifs.spec.digest import Digest

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d{1,15})\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int | None:
    """Parse a number with an optional unit, a power of 1024; return None if it is not one."""
    match = _SIZE.fullmatch(text.strip())
    return int(match[1]) * _UNITS[match[2].lower()] if match else None


class Size(click.ParamType[int]):
    """A number of bytes: `64MiB`, `10g`, `4096`. Units are powers of 1024."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse."""
        if isinstance(value, int):
            return value
        size = parse_size(value)
        if size is None:
            self.fail(f"{value!r} is not a size; write 64MiB or 10GiB", param, ctx)
        return size


class LimitType(click.ParamType[tuple[str, int]]):
    """NAME=VALUE: a new value for a limit."""

    name = "NAME=VALUE"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Parse."""
        if isinstance(value, tuple):
            return value
        name, _, number = value.partition("=")
        field = name.strip().replace("-", "_")
        if field not in Limits.__struct_fields__:
            known = ", ".join(map(DEFAULT_LIMITS.setting, Limits.__struct_fields__))
            self.fail(f"{name!r} is not a limit. The limits, with their defaults: {known}", param, ctx)
        size = parse_size(number)
        if size is None:
            self.fail(f"{number!r} is not a number; write {name}=5000000 or {name}=64MiB", param, ctx)
        return field, size


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
    help="Directory of the cache.  [default: $XDG_CACHE_HOME/ocifs]",
)
max_cache_size_option = click.option(
    "--max-cache-size",
    type=Size(),
    default=f"{DEFAULT_MAX_SIZE >> 30}GiB",
    envvar="OCIFS_MAX_CACHE_SIZE",
    show_envvar=True,
    show_default=True,
    help="Evict least recently used entries above SIZE.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


_ACCESS = "ocifs.access"


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    """Store an option that only `Opening` uses, so that commands need no parameter for it."""
    ctx.meta.setdefault(_ACCESS, {})[param.name] = value


_SOURCE_OPTIONS = (
    click.option(
        "--follow-links",
        is_flag=True,
        envvar="OCIFS_FOLLOW_LINKS",
        show_envvar=True,
        callback=_remember,
        expose_value=False,
        help="Follow symlinks that lead out of a layout directory.",
    ),
    click.option(
        "--toc",
        type=click.Choice(["use", "find", "verify", "ignore"]),
        default="use",
        envvar="OCIFS_TOC",
        show_envvar=True,
        callback=_remember,
        expose_value=False,
        help="TOCs in layers (eStargz, zstd:chunked): use those that the manifest declares, find others too, "
        "verify each against its whole layer first, or ignore them.  [default: use]",
    ),
    click.option(
        "--trust-index/--no-trust-index",
        default=None,
        callback=_remember,
        expose_value=False,
        help="Use a published index before it is verified.  [default: for a tag; for a digest if bound]",
    ),
    click.option(
        "--allow-foreign-urls",
        is_flag=True,
        callback=_remember,
        expose_value=False,
        help="Fetch foreign layers that the registry lacks from the URLs in the manifest.",
    ),
    click.option(
        "--cert-dir",
        type=click.Path(file_okay=False, path_type=Path),
        callback=_remember,
        expose_value=False,
        help="CAs (*.crt) and client certificates (*.cert, *.key) for the registry.",
    ),
    click.option(
        "--tls-verify",
        type=bool,
        metavar="true|false",
        callback=_remember,
        expose_value=False,
        help="false: accept any certificate, or plain HTTP.  [default: true, or as in registries.conf]",
    ),
    click.option(
        "--creds",
        "credentials",
        metavar="USER[:PASSWORD]",
        callback=_remember,
        expose_value=False,
        help="Registry credentials; other users can see them in the process list.",
    ),
    click.option(
        "--authfile",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="REGISTRY_AUTH_FILE",
        show_envvar=True,
        callback=_remember,
        expose_value=False,
        help="File with registry credentials.  [default: those of `podman login` and `docker login`]",
    ),
)


class Opening(NamedTuple):
    """The options for opening an image."""

    platform: Platform | None = None
    cache_dir: Path | None = None
    max_cache_size: int = DEFAULT_MAX_SIZE
    limits: Limits = DEFAULT_LIMITS
    strict: bool = False
    low_memory: bool = False
    lazy: bool = True
    trust_index: bool | None = None
    access: Access = Access()
    follow_links: bool = False
    toc: Literal["use", "find", "verify", "ignore"] = "use"
    verbose: bool = False
    gzidx: tuple[str, ...] = ()

    def source(self, image: str) -> "tuple[Source, Reference]":
        """Open the source of an image, but not the image."""
        from ocifs.blobs.caching_source import open_cached
        from ocifs.sources.reference import parse_reference

        reference = parse_reference(image)
        source = open_cached(reference, self.store(), self.access, self.limits, follow_links=self.follow_links)
        return source, reference

    def store(self) -> Store:
        """Open the cache; warn on stderr if it cannot be used."""
        return open_store(self.cache_dir, self.max_cache_size)

    def options(
        self, progress: "Callable[[Digest, int, int], None]", *, layer: int | None = None, changes_only: bool = False
    ) -> "ImageOptions":
        """Return the options of the API."""
        from ocifs.options import Options

        return Options(
            store=self.store(),
            platform=self.platform,
            layer=layer,
            changes_only=changes_only,
            limits=self.limits,
            strict=self.strict,
            low_memory=self.low_memory,
            lazy=self.lazy,
            trust_index=self.trust_index,
            toc=self.toc,
            access=self.access,
            follow_links=self.follow_links,
            gzidx=self.gzidx,
            warn=warn,
            tell=tell if self.verbose else lambda message: None,
            progress=progress,
        )

    def open(self, image: str, *, layer: int | None = None, changes_only: bool = False) -> "Image":
        """Open an image, with a progress bar on a terminal while it is indexed."""
        from ocifs.cli.progress import indexing
        from ocifs.image.opening import open_image

        with indexing() as progress:
            return open_image(image, self.options(progress, layer=layer, changes_only=changes_only))

    def complain(self, message: str) -> None:
        """Print a warning about the image; with --strict, raise InvalidImageError instead."""
        if self.strict:
            raise InvalidImageError(f"{message}: refused by --strict")
        warn(message)


def document_options(command: F) -> F:
    """Add the options of every command that opens an image; the command receives them as one `Opening`."""

    @functools.wraps(command)
    def with_opening(
        platform: Platform | None,
        cache_dir: Path | None,
        max_cache_size: int,
        limits: tuple[tuple[str, int], ...],
        strict: bool = False,
        **others: object,
    ) -> object:
        registry = dict(click.get_current_context().meta.get(_ACCESS, {}))
        opening = Opening(
            platform,
            cache_dir,
            max_cache_size,
            replace(DEFAULT_LIMITS, **dict(limits)),
            strict,
            trust_index=registry.pop("trust_index", None),
            toc=registry.pop("toc", "use"),
            follow_links=registry.pop("follow_links", False),
            access=Access(**registry),
        )
        return command(opening=opening, **others)

    for add in (
        *_SOURCE_OPTIONS,
        max_cache_size_option,
        cache_dir_option,
        click.option(
            "--limit",
            "limits",
            type=LimitType(),
            multiple=True,
            envvar="OCIFS_LIMITS",
            show_envvar=True,
            help="Override a resource limit, e.g. entries=9000000 (repeatable).  [names: --limit help]",
        ),
        click.option(
            "--platform",
            type=PlatformType(),
            metavar="OS/ARCH[/VARIANT]",
            help="Select this platform of a multi-platform image.  [default: this machine's]",
        ),
    ):
        with_opening = add(with_opening)
    return with_opening  # type: ignore[return-value] # click calls it with other parameters


def image_options(command: F) -> F:
    """Add the options of every command that reads the layers of an image."""
    strict = click.option(
        "--strict",
        is_flag=True,
        envvar="OCIFS_STRICT",
        show_envvar=True,
        help="Treat warnings as errors, including those recorded at indexing.",
    )
    return strict(document_options(command))


def mount_options(command: F) -> F:
    """Add the options of every command that mounts an image."""
    for add in (
        click.option(
            "--no-service",
            is_flag=True,
            envvar="OCIFS_NO_SERVICE",
            show_envvar=True,
            help="Do not let the service serve the mount, even if it runs.",
        ),
        click.option(
            "--prefetch-rate",
            type=Size(),
            help="Limit prefetching to SIZE bytes per second.  [default: unlimited]",
        ),
        click.option(
            "--prefetch/--no-prefetch",
            default=True,
            help="Fetch the rest of the image in the background, and verify it.  [default: yes]",
        ),
        click.option(
            "--log",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Log file of the mount.  [default: ocifs.log in the runtime directory]",
        ),
        click.option(
            "--read-timeout",
            type=click.IntRange(1, 86400),
            default=60,
            show_default=True,
            metavar="SECONDS",
            help="Fail a read that takes longer (EIO).",
        ),
        click.option("--span-cache", type=Size(), default="64MiB", show_default=True, help="Memory for decoded data."),
        click.option(
            "--engine",
            type=click.Choice(["auto", "erofs", "fuse"]),
            default="auto",
            envvar="OCIFS_ENGINE",
            show_envvar=True,
            show_default=True,
            help="erofs: served by the kernel (root, Linux 6.12+). auto: erofs if possible, else fuse.",
        ),
    ):
        command = add(command)
    return command


def open_store(cache_dir: Path | None, max_cache_size: int) -> Store:
    """Open the cache; warn on stderr if it cannot be used."""
    return Store(cache_dir or default_directory(), max_size=max_cache_size, warn=warn)


class View(NamedTuple):
    """The image, or the part of it, that a command shows."""

    image: str
    opening: Opening
    layer: int | None
    only_layer: int | None

    def open(self) -> "Image":
        """Open the image, as of `layer` or reduced to the changes of `only_layer`. Raises UsageError."""
        if self.layer is not None and self.only_layer is not None:
            raise click.UsageError("--layer and --only-layer exclude each other")
        return self.opening.open(
            self.image,
            layer=self.layer if self.only_layer is None else self.only_layer,
            changes_only=self.only_layer is not None,
        )


def view_options(command: F) -> F:
    """Add the options of every command that shows an image, with IMAGE; the command receives them as one `View`."""

    @functools.wraps(command)
    def with_view(image: str, opening: Opening, layer: int | None, only_layer: int | None, **others: object) -> object:
        return command(View(image, opening, layer, only_layer), **others)

    for add in (
        click.argument("image"),
        click.option("--only-layer", type=int, metavar="N", help="Show only what layer N changes, whiteouts included."),
        click.option("--layer", type=int, metavar="N", help="Show the image as of layer N; 0 is the base, -1 the top."),
        image_options,
    ):
        with_view = add(with_view)
    return with_view  # type: ignore[return-value] # click calls it with other parameters


def warn(message: str) -> None:
    """Print a warning on stderr, on one line."""
    click.echo(f"ocifs: warning: {printable_path(message)}", err=True)


def tell(message: str) -> None:
    """Print a note on stderr, on one line."""
    click.echo(f"ocifs: {printable_path(message)}", err=True)
