"""What the word at the cursor can become: commands, options, tags, layers, paths, mountpoints.

Names with control characters, or that are not UTF-8, are left out: a shell would show or run them.
"""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ocifs.cli.complete.commands import COMMANDS
from ocifs.cli.complete.model import ELSEWHERE, Completion
from ocifs.cli.complete.request import CompletionRequest
from ocifs.errors import OcifsError

if TYPE_CHECKING:
    from ocifs.cli.complete.image import Lookup

MAX = 1000
"""Most candidates: shells ask before they show a hundred."""

_SCANNED = 100_000
"""Most entries of a directory of this machine that are looked at."""

_TRANSPORTS = ("oci:", "oci-archive:", "docker-archive:", "dir:")
_PLATFORMS = (
    *("linux/386", "linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "linux/loong64", "linux/ppc64le"),
    *("linux/riscv64", "linux/s390x"),
)


class Answer(NamedTuple):
    """Candidates, or names of files, which the shell completes itself."""

    candidates: list[Completion]
    files_from: int | None = None
    """Where the name of a file begins in the word; None: it is not one."""


def answer(request: CompletionRequest) -> Answer:
    """Return what the word at the cursor can become.

    Raises what opening an image does.
    """
    if request.offers_options:
        return _fitting(request, _options(request))
    if request.value is None:
        return _fitting(request, _subcommands(request))
    if isinstance(request.value, tuple):
        return _values(request, map(Completion, request.value))
    match request.value:
        case "image":
            return _image(request)
        case "path" | "path or file":
            return _path(request)
        case "mountpoint":
            found = _values(request, map(Completion, _mountpoints()))
            return found if found.candidates else Answer([], request.start)
        case "layer" | "limit" | "platform" | "none":
            found = _values(request, _named(request))
            return found if found.candidates else Answer([], request.start)
        case "file":
            return Answer([], request.start)


def _named(request: CompletionRequest) -> Iterator[Completion]:
    """Yield the values of a kind that has names."""
    match request.value:
        case "layer" if request.arguments:
            yield from _lookup(request).layers()
        case "limit":
            yield from (Completion(f"{name}=", "", is_whole=False) for name in _limits())
        case "platform":
            yield from map(Completion, _PLATFORMS)


def _values(request: CompletionRequest, values: Iterable[Completion]) -> Answer:
    """Return the values that fit, behind the option that the word begins with."""
    prefix = request.word[: request.start]
    return _fitting(request, (each._replace(word=prefix + each.word) for each in values))


def _fitting(request: CompletionRequest, candidates: Iterable[Completion]) -> Answer:
    found = [each for each in candidates if each.word.startswith(request.word) and each.word.isprintable()]
    return Answer(found[:MAX])


def _options(request: CompletionRequest) -> Iterator[Completion]:
    """Yield the long names, and short ones if an option has no other, or a letter is typed."""
    for option in request.command.options:
        long = [name for name in option.names if name.startswith("--")]
        for name in (long if request.word == "-" else ()) or option.names:
            yield Completion(name, option.help)


def _subcommands(request: CompletionRequest) -> Iterator[Completion]:
    for name in request.command.subcommands:
        yield Completion(name, COMMANDS[f"{request.group} {name}".strip()][0])


def _lookup(request: CompletionRequest, image: str | None = None) -> "Lookup":
    from ocifs.cli.complete.image import Lookup

    return Lookup(_named_image(request)[0] if image is None else image, request.options)


def _named_image(request: CompletionRequest) -> tuple[str, str | None]:
    """Return the image among the arguments so far, and the path that was written with it."""
    values = zip(request.arguments, request.command.arguments, strict=False)
    return _split(next((argument for argument, value in values if value == "image"), ""))


def _split(text: str) -> tuple[str, str | None]:
    """Split `IMAGE:/PATH`, as `split_path` does."""
    from ocifs.sources.reference import split_path

    return split_path(text, lambda path: os.path.lexists(os.path.expanduser(path)))


def _image(request: CompletionRequest) -> Answer:
    text = request.word[request.start :]
    prefix = request.word[: request.start]
    image, inside = _split(text)
    if inside is not None:
        return _paths_below(request, _lookup(request, image), len(prefix) + len(image) + 1)
    if text.startswith(ELSEWHERE):
        from ocifs.cli.complete.image import known_images_elsewhere

        return _fitting(request, (Completion(prefix + name) for name in known_images_elsewhere()))
    transport = next((each for each in _TRANSPORTS if text.startswith(each)), "")
    starts = [each for each in (*_TRANSPORTS, *ELSEWHERE) if text and text != each and each.startswith(text)]
    if starts and not files(text, 0):
        return Answer([Completion(prefix + each, "", is_whole=False) for each in starts])
    if ":" not in text[len(transport) :]:
        return Answer([], request.start + len(transport))
    try:
        typed, tags = _lookup(request, text).tags()
    except (OcifsError, OSError):
        return Answer([], request.start)
    before = request.word[: len(request.word) - typed]
    return _fitting(request, (Completion(before + tag) for tag in tags))


def _path(request: CompletionRequest) -> Answer:
    path = request.word[request.start :]
    if request.value == "path or file" and not path.startswith("/"):
        return Answer([], request.start)
    if _split(path)[1] is not None:  # IMAGE is repeated
        return _image(request)
    if _named_image(request)[1] is not None and request.command.arguments[-1] == "file":
        return Answer([], request.start)
    return _paths_below(request, _lookup(request), request.start)


def _paths_below(request: CompletionRequest, lookup: "Lookup", start: int) -> Answer:
    """Return the paths inside the image that begin like the word from `start`."""
    parent, slash, _ = request.word[start:].rpartition("/")
    typed = request.word[: start + len(parent) + len(slash)] + ("" if request.word[start:] else "/")
    last = request.word[start + len(parent) + len(slash) :]
    try:
        entries = lookup.entries(parent + slash, last, MAX)
    except (OcifsError, OSError, ValueError):  # files of this machine would be the wrong ones
        return Answer([])
    return Answer([Completion(typed + name + "/" * is_dir, "", is_whole=not is_dir) for name, is_dir in entries])


def files(word: str, start: int) -> list[Completion]:
    """Return the files of this machine whose names begin like `word` from `start`. Raises OSError."""
    directory, slash, name = word[start:].rpartition("/")
    before = word[: start + len(directory) + len(slash)]
    found = []
    with os.scandir(os.path.expanduser(directory + slash) or ".") as entries:
        for entry, _ in zip(entries, range(_SCANNED), strict=False):
            if entry.name.startswith(name) and entry.name.isprintable() and (name or not entry.name.startswith(".")):
                is_directory = entry.is_dir()
                found.append(Completion(before + entry.name + "/" * is_directory, "", is_whole=not is_directory))
    return sorted(found)[:MAX]


def _mountpoints() -> list[str]:
    from ocifs.mount.record import list_mounts

    return sorted({each.bundle or each.mountpoint for each in list_mounts()})


def _limits() -> list[str]:
    from ocifs.limits import Limits

    return [name.replace("_", "-") for name in Limits.__struct_fields__]
