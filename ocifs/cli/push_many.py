"""`ocifs index push` for many images: several at once, each independent of the failures of the others.

It skips published indexes, so an interrupted run can be repeated: a finished image takes a few small requests, and the
cache resumes an unfinished download. Tags of one manifest share one index.
"""

import re
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from msgspec.structs import replace

from ocifs.cli.options import tell
from ocifs.cli.pushing import Form, Pushed, find_published, publish
from ocifs.errors import OcifsError, StoreError, printable_path, shortage
from ocifs.options import Options
from ocifs.pool import Pool

if TYPE_CHECKING:
    from ocifs.spec.digest import Digest

PARTLY = 10
"""Exit status if some images failed, but not all."""

_MOST_IMAGES = 100_000
_MOST_BYTES = 32 << 20
"""Maximum length of a list of images, and its bytes."""
_ARTIFACT_TAG = re.compile(r"sha256-[0-9a-f]{64}(\..+)?")
"""Tags of artifacts that refer to an image, such as indexes and signatures."""


def push_many(
    images: Sequence[str],
    options: Options,
    form: Form,
    min_layer_size: int,
    *,
    jobs: int,
    force: bool,
    as_json: bool,
) -> int:
    """Publish the indexes of images, print the outcome of each and a summary, and return the exit status.

    Args:
        images: References.
        options: How to open them.
        form: Format of the indexes.
        min_layer_size: Bytes of the smallest layer in a SOCI index.
        jobs: How many images at once.
        force: Publish even if an index is published already.
        as_json: Print one object for each image, instead of text.

    Raises:
        StoreError, ShortageError: Every other image would fail in the same way.
    """
    from ocifs.cli.progress import LayerBars, bars

    counts = dict.fromkeys(("pushed", "skipped", "failed"), 0)
    first_failure = 0
    with bars() as drawn:
        drawing = LayerBars(drawn, "indexing")
        options = replace(options, progress=drawing, downloading=drawing.downloading)
        run = _Run(options, form, min_layer_size, force=force)
        pool = Pool(jobs)
        try:
            for future in as_completed([pool.submit(run.push, image) for image in images]):
                done, code = future.result()
                counts[done.outcome] += 1
                first_failure = first_failure or code
                if drawn:
                    drawn.hide()
                click.echo(msgspec.json.encode(done, enc_hook=str) if as_json else str(done))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # an error or an interrupt ends the threads with the process
    tell(", ".join(f"{outcome}: {count}" for outcome, count in counts.items()))
    if counts["failed"] == len(images):
        return first_failure
    return PARTLY if counts["failed"] else 0


class _Run:
    """The state that the threads share."""

    def __init__(self, options: Options, form: Form, min_layer_size: int, *, force: bool) -> None:
        self._options = options
        self._form = form
        self._min_layer_size = min_layer_size
        self._force = force
        self._lock = threading.Lock()
        self._claimed: dict[tuple[str, Digest], str] = {}
        """The first reference to each manifest of a repository."""

    def push(self, image: str) -> tuple[Pushed, int]:
        """Return the outcome for an image, and the exit status of its failure. Raises as `push_many`."""
        try:
            return self._push(image), 0
        except StoreError:
            raise
        except (OcifsError, OSError) as error:
            if (short := shortage(error)) is not None:
                raise short from None
            reason = str(error) if isinstance(error, OcifsError) else error.strerror or str(error)
            code = error.exit_code if isinstance(error, OcifsError) else OcifsError.exit_code
            return Pushed(image=image, outcome="failed", reason=printable_path(reason)), code

    def _push(self, image: str) -> Pushed:
        from ocifs.image.opening import open_image
        from ocifs.sources.naming import reference_of

        reference = reference_of(image)
        digest, is_published = find_published(reference, self._options, self._form)
        with self._lock:
            first = self._claimed.setdefault((reference.path, digest), image)
        if first != image:
            return Pushed(image=image, outcome="skipped", digest=digest, reason=f"the same image as {first}")
        if is_published and not self._force:
            return Pushed(image=image, outcome="skipped", digest=digest, reason="its index is published")
        with open_image(reference, self._options) as opened:
            return publish(opened, image, self._options, self._form, self._min_layer_size)


def listed_images(path: Path) -> list[str]:
    """Return the references in a file, or on standard input for `-`: one a line; `#` begins a comment.

    Raises:
        OcifsError: It cannot be read, is too long, or is not text.
    """
    name = "standard input" if str(path) == "-" else printable_path(str(path))
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        lines = [line.partition(" #")[0].strip() for line in data.decode().splitlines()]
    except (OSError, ValueError) as error:
        raise OcifsError(f"cannot read {name}: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    images = [line for line in lines if line and not line.startswith("#")]
    if len(data) > _MOST_BYTES or len(images) > _MOST_IMAGES:
        raise OcifsError(f"{name} lists more than {_MOST_IMAGES} images: split it")
    return images


def tagged_images(image: str, options: Options) -> Iterator[str]:
    """Yield references for all tags beside an image, except those of artifacts; raises as `ocifs tags`."""
    from ocifs.cli.options import open_source

    source, reference = open_source(image, options)
    with closing(source):
        tags = source.tags()
    prefix = {None: "", "docker": "docker://"}.get(reference.transport, f"{reference.transport}:")
    for tag in tags:
        if not _ARTIFACT_TAG.fullmatch(tag):
            yield f"{prefix}{reference.path}:{tag}"
