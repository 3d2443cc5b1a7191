"""IMAGE[:/PATH] and the layer options of commands that show files, gathered into one `View`."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from ocifs.cli.options import ImageOption, image_options, open_image
from ocifs.errors import printable_path
from ocifs.options import Options

if TYPE_CHECKING:
    from ocifs.image.opening import Image

F = TypeVar("F", bound=Callable[..., Any])


class _ViewOption(ImageOption):
    group = ImageOption.group._replace(heading=None)


_LAYER = click.option(
    "--layer", cls=_ViewOption, type=int, metavar="N", help="Show the image as of layer N (0: base, -1: top)."
)
_ONLY_LAYER = click.option(
    "--only-layer",
    cls=_ViewOption,
    type=int,
    metavar="N",
    help="Show only what layer N changes.",
    details="Whiteouts are shown as files of their own type.",
)


class View(NamedTuple):
    """The image, or the part of it, that a command shows."""

    image: str
    path: str | None
    """The path of `IMAGE:/PATH`."""
    options: Options

    def open(self) -> "Image":
        """Open the image, as of a layer or reduced to the changes of a layer."""
        return open_image(self.image, self.options)

    @contextmanager
    def files(self, further: Sequence[str], default: str | None = None) -> "Iterator[tuple[Image, list[bytes]]]":
        """Yield the opened image, and the paths of `paths` in it, with wildcards expanded."""
        from ocifs.image.glob import expand

        named = self.paths(further, default)
        with self.open() as opened:
            yield opened, expand(opened.rootfs, named)

    def paths(self, further: Sequence[str], default: str | None = None) -> list[bytes]:
        """Return the paths in the image: that of `IMAGE:/PATH`, then each PATH, before which IMAGE may be repeated.

        Raises:
            UsageError: There is none and no `default`, or one is in another image.
        """
        if self.path is None:
            named = list(further)
        else:
            named = [self.path, *(path.removeprefix(f"{self.image}:") for path in further)]
            if other := next((path for path in named if ":/" in path and not path.startswith("/")), None):
                raise click.UsageError(f"'{printable_path(other)}' is in another image: name one image")
        if not named and default is None:
            raise click.MissingParameter(param_hint="'PATH...'", param_type="argument")
        return [os.fsencode(path) for path in named or [default or ""]]


def one_path(image: str, path: str | None) -> tuple[str, str]:
    """Return IMAGE, and the path in it: the one of `IMAGE:/PATH`, else `path`, else `/`. Raises UsageError for both."""
    from ocifs.sources.reference import split_path

    image, inside = split_path(image)
    if inside is not None and path is not None:
        raise click.UsageError(f"the path is given twice: '{printable_path(inside)}' and '{printable_path(path)}'")
    return image, inside or path or "/"


def merged_view_options(command: F) -> F:
    """Add IMAGE and the options of every command that shows merged layers; the command receives them as one `View`."""

    @functools.wraps(command)
    def with_view(image: str, options: Options, **others: object) -> object:
        from ocifs.sources.reference import split_path

        return command(View(*split_path(image), options), **others)

    for add in (click.argument("image", metavar="IMAGE[:/PATH]"), _LAYER, image_options):
        with_view = add(with_view)
    return with_view  # type: ignore[return-value] # click calls it with other parameters


def view_options(command: F) -> F:
    """Add `merged_view_options`, and the option to show the changes of one layer instead."""
    return merged_view_options(_ONLY_LAYER(command))
