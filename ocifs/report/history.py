"""The build steps of an image from its config, each with the layer it created."""

from collections.abc import Iterator, Sequence

import msgspec

from ocifs.report.text import human_size, table
from ocifs.sources.resolve import ResolvedImage
from ocifs.spec.config import History
from ocifs.spec.document import shown

_LONG = 4096


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A build step; times are RFC 3339 text as in the config."""

    created: str
    created_by: str
    author: str
    comment: str
    layer: int | None
    """The layer that the step created, the base being 0; None: no layer."""
    digest: str | None
    size: int | None
    """Bytes of the layer as stored."""


def build_history(resolved: ResolvedImage) -> list[Step]:
    """Return the steps, the first one first; a layer without a step gets an empty step.

    The history in a config is optional and unverified.
    """
    numbers = iter(range(len(resolved.layers)))
    steps = [
        _step(entry, None if entry.empty_layer else next(numbers, None), resolved) for entry in resolved.config.history
    ]
    return [*steps, *(_step(History(), number, resolved) for number in numbers)]


def _step(entry: History, number: int | None, resolved: ResolvedImage) -> Step:
    descriptor = None if number is None else resolved.layers[number].descriptor
    return Step(
        created=entry.created,
        created_by=entry.created_by,
        author=entry.author,
        comment=entry.comment,
        layer=number,
        digest=None if descriptor is None else str(descriptor.digest),
        size=None if descriptor is None else descriptor.size,
    )


def shown_command(step: Step) -> str:
    """Return the command of a step on one line, without the shell that Dockerfiles wrap it in."""
    text = " ".join((step.created_by or step.comment or "-").split())
    for shell in ("/bin/sh -c #(nop) ", "/bin/sh -c "):
        text = text.removeprefix(shell)
    return shown(text, _LONG)


def history_lines(steps: Sequence[Step], width: int | None) -> Iterator[str]:
    """Yield a table; commands are cut to a total `width` in columns, or complete if it is None."""
    rows = [
        (
            "-" if step.layer is None else str(step.layer),
            "-" if step.digest is None else step.digest[:19],
            "-" if step.size is None else human_size(step.size),
            shown(step.created.partition(".")[0].removesuffix("Z") or "-"),
        )
        for step in steps
    ]
    rows.insert(0, ("LAYER", "DIGEST", "SIZE", "CREATED"))
    commands = ["CREATED BY", *(" ".join((step.created_by or step.comment or "-").split()) for step in steps)]
    for begin, command in zip(table(rows, right=(0, 2)), commands, strict=True):
        text = shown(command, 1 << 20)
        room = None if width is None else max(20, width - len(begin) - 2)
        yield f"{begin}  " + (text if room is None or len(text) <= room else text[: room - 1] + "…")
