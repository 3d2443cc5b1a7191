"""The options of commands that open an image, gathered into one `ocifs.options.Options`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from msgspec.structs import replace

from ocifs.cli.command import GroupedOption, OptionGroup, add_options
from ocifs.cli.types import LimitType, PlatformType, Size
from ocifs.errors import printable_path
from ocifs.limits import DEFAULT_LIMITS
from ocifs.options import Options, TocMode
from ocifs.sources.registry.access import Access
from ocifs.store import DEFAULT_MAX_SIZE, Store, default_directory

if TYPE_CHECKING:
    from ocifs.blobs.source import Source
    from ocifs.image.opening import Image
    from ocifs.service.client import Mounter
    from ocifs.sources.reference import Reference

F = TypeVar("F", bound=Callable[..., Any])


def warn(message: str) -> None:
    """Print a warning on stderr, on one line."""
    click.echo(f"ocifs: warning: {printable_path(message)}", err=True)


def tell(message: str) -> None:
    """Print a note on stderr, on one line."""
    click.echo(f"ocifs: {printable_path(message)}", err=True)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _cache_dir(cls: type[click.Option]) -> Callable[[F], F]:
    return click.option(
        "--cache-dir",
        cls=cls,
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        envvar="OCIFS_CACHE_DIR",
        show_default="~/.cache/ocifs",
        help="Cache directory.",
    )


cache_dir_option = _cache_dir(click.Option)


def _options(values: dict[str, Any]) -> Options:
    """Gather the values of the options; open the cache, with a warning on stderr if it cannot be used.

    Raises:
        UsageError: --layer and --only-layer are both set.
    """
    layer, only_layer = values.pop("layer", None), values.pop("only_layer", None)
    if layer is not None and only_layer is not None:
        raise click.UsageError("--layer and --only-layer exclude each other")
    directory = values.pop("cache_dir") or default_directory()
    return Options(
        store=Store(directory, max_size=values.pop("max_cache_size"), warn=warn),
        limits=replace(DEFAULT_LIMITS, **dict(values.pop("limits"))),
        access=Access(
            # Each warning once, however many endpoints there are.
            warn=functools.cache(warn),
            **{name: values.pop(name) for name in Access.__struct_fields__ if name in values},
        ),
        layer=layer if only_layer is None else only_layer,
        changes_only=only_layer is not None,
        warn=warn,
        **values,
    )


class ImageOption(GroupedOption):
    """An option of commands that open an image; its value ends in their `Options`."""

    group = OptionGroup("options", _options, "Registry, cache and limits")


_DEFAULTS = Options()
_option = functools.partial(click.option, cls=ImageOption)

_DOCUMENT_OPTIONS = (
    _option(
        "--platform",
        type=PlatformType(),
        metavar="OS/ARCH",
        show_default="this machine's",
        help="Platform of the image.",
        details="The full form is OS/ARCH[/VARIANT]. An image for another platform is refused.",
    ),
    _option(
        "--limit",
        "limits",
        is_eager=True,
        type=LimitType(),
        multiple=True,
        envvar="OCIFS_LIMITS",
        help="Set a resource limit; `--limit help` lists them.",
        details="Repeatable, as in --limit entries=9000000 --limit layers=900. See LIMITS in ocifs(1).",
    ),
    _cache_dir(ImageOption),
    _option(
        "--max-cache-size",
        type=Size(),
        default=DEFAULT_MAX_SIZE,
        envvar="OCIFS_MAX_CACHE_SIZE",
        show_default=True,
        help="Evict old entries above SIZE.",
        details="Least recently used entries are evicted first.",
    ),
    _option(
        "--authfile",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        envvar="REGISTRY_AUTH_FILE",
        show_default="podman's, docker's",
        help="Credentials file.",
        details="The default is what `podman login` and `docker login` wrote, including their credential helpers.",
    ),
    _option(
        "--creds",
        "credentials",
        metavar="USER[:PASSWORD]",
        help="Credentials, visible in process lists.",
        details="They are not sent to mirrors.",
    ),
    _option(
        "--cert-dir",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="CAs and client certificates for the registry.",
        details=(
            "CAs are *.crt, client certificates *.cert with *.key. The default is HOST[:PORT] below "
            "~/.config/containers/certs.d, /etc/containers/certs.d or /etc/docker/certs.d."
        ),
    ),
    _option(
        "--tls-verify",
        type=bool,
        metavar="true|false",
        help="false: any certificate, or plain HTTP.",
        details=(
            "true accepts neither, even if registries.conf or a loopback address would allow it. The default "
            "is true, or what registries.conf says."
        ),
    ),
    _option(
        "--hosts-dir",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="DIR",
        envvar="OCIFS_HOSTS_DIR",
        help="Directory of containerd's hosts.toml files.",
        details=(
            "Such as /etc/containerd/certs.d. It names mirrors, certificates and headers for the registries that it "
            "has a directory for; registries.conf counts for the others."
        ),
    ),
    _option(
        "--allow-foreign-urls",
        is_flag=True,
        help="Fetch missing layers from URLs in the manifest.",
        details="Only for foreign (nondistributable) layers that the registry lacks.",
    ),
    _option(
        "--trust-index/--no-trust-index",
        default=_DEFAULTS.trust_index,
        help="Use a published index before it is verified.",
        details="By default for a tag; for a digest only an index that the manifest names; with --strict none.",
    ),
    _option(
        "--toc",
        type=click.Choice(get_args(TocMode)),
        default=_DEFAULTS.toc,
        metavar="MODE",
        envvar="OCIFS_TOC",
        show_default=True,
        help="TOCs: use, find, verify or ignore.",
        details=(
            "The tables of contents in layers of eStargz and zstd:chunked. use: use those that the layers' descriptors "
            "declare. find: also look for others, which takes a request for each layer. verify: fetch and index the "
            "layers, and refuse the image if a TOC contradicts the tar. ignore: read the tar."
        ),
    ),
    _option(
        "--follow-links",
        is_flag=True,
        envvar="OCIFS_FOLLOW_LINKS",
        help="Follow symlinks out of a layout directory.",
        details="Symlinks that stay in it are always followed.",
    ),
)

_STRICT = _option(
    "--strict",
    is_flag=True,
    envvar="OCIFS_STRICT",
    help="Treat warnings as errors.",
    details="This includes warnings recorded when the image was indexed.",
)


def document_options(command: F) -> F:
    """Add the options of every command that opens an image; the command receives them as one `Options`."""
    return add_options(_DOCUMENT_OPTIONS)(command)


def image_options(command: F) -> F:
    """Add the options of every command that reads the layers of an image, with those of `document_options`."""
    return _STRICT(document_options(command))


def open_image(image: str, options: Options) -> "Image":
    """Open an image, with a progress bar on a terminal while it is indexed."""
    from ocifs.cli.progress import indexing
    from ocifs.image import opening

    if (mounter := _mounter()) is not None:
        options = mounter.opening(image, options)
    with indexing() as progress:
        return opening.open_image(image, replace(options, progress=progress, downloading=progress.downloading))


def _mounter() -> "Mounter | None":
    context = click.get_current_context(silent=True)
    if context is None or context.obj is None:
        return None
    from ocifs.service.client import Mounter

    return context.find_object(Mounter)


def open_source(image: str, options: Options) -> "tuple[Source, Reference]":
    """Open the source of an image, but not the image; with a progress bar while a compressed archive is indexed."""
    from ocifs.blobs.opening import Preparing, open_cached
    from ocifs.cli.progress import indexing
    from ocifs.sources.naming import reference_of

    reference = reference_of(image)
    with indexing() as progress:
        source = open_cached(
            reference,
            options.store,
            options.access,
            options.limits,
            follow_links=options.follow_links,
            preparing=Preparing(progress.downloading, progress, low_memory=options.low_memory, warn=options.warn),
        )
    return source, reference
