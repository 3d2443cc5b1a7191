"""References: how a user names an image.

    PATH[:TAG]  PATH@DIGEST                  a layout or an archive, recognised by its content
    oci:PATH[:TAG]  oci:PATH@DIGEST          a layout directory
    oci-archive:FILE[:TAG]                   a layout in a tar file
    docker-archive:FILE[:NAME:TAG|:@POSITION]   an archive of `docker save`
    -                                        an archive from standard input, also after oci-archive: or docker-archive:
    dir:DIR[@DIGEST]                         a directory that `skopeo copy … dir:DIR` has written
    http[s]://HOST[:PORT]/PATH[:TAG]  …@DIGEST   an archive on a web server, also after oci-archive: or docker-archive:
    docker-daemon:NAME[:TAG]                 an image of a Docker engine
    containers-storage:NAME[:TAG]            an image in podman's storage; also after [DRIVER@GRAPHROOT+RUNROOT]
    NAME[:TAG][@DIGEST]                      a short name, if registries.conf says what it stands for
    docker://[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]   a registry

`~N` after any of these means the image without its last N layers; a path with exactly that name takes precedence.

A path ends at the first `:`. If that names no existing path, it ends where the longest existing path ends; so paths and
tags may contain colons. The source that holds the image decides what a tag means. `dir:NAME` is the path `dir` with a
tag if `dir` exists, and `NAME` does not. A path that exists always wins over a short name.

A URL ends at the first colon after its host and port: a colon in its path or query is written `%3A`.

`:/PATH` after a reference names a file in the image (`split_path`). No tag begins with a slash.
"""

import os
import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, cast, get_args

from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, UnsupportedError, printable_path
from ocifs.spec.digest import Digest
from ocifs.spec.document import shown

LocalTransport = Literal["oci", "oci-archive", "docker-archive", "dir"]
"""Transports of a path; `ocifs.sources.resolve` has an opener for each."""
NamedTransport = Literal["docker-daemon", "containers-storage"]
"""Transports for images that another program on this machine keeps by name."""
Transport = LocalTransport | NamedTransport | Literal["docker"]

_TRANSPORT = re.compile(rf"({'|'.join(get_args(LocalTransport))}):(.*)", re.DOTALL)
_FOREIGN = re.compile(r"(ostree|sif|tarball):")
_NAMED = re.compile(rf"({'|'.join(get_args(NamedTransport))}):(.*)", re.DOTALL)
_AT_URL = re.compile(r"(?:(oci-archive|docker-archive):)?((?i:https?)://[^/?#]*)(.*)", re.DOTALL)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_DIGESTED = re.compile(r"(.+)@([^@:/]+:[^@:/]*)", re.DOTALL)
_POSITION = re.compile(r"@([0-9]{1,9})")
_WITHOUT = re.compile(r"(.+)~([0-9]{1,9})", re.DOTALL)

DOCKER = "docker.io"
"""The registry of short names that no configuration explains."""
_REGISTRY = "docker://"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IN_REGISTRY = re.compile(
    r"((?:(?:\[[0-9a-fA-F:]+\]|[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?)(?::[0-9]{1,5})?/)?"
    rf"{_COMPONENT}(?:/{_COMPONENT})*)(?::(\w[\w.-]{{0,127}}))?(?:@([^@/]+))?",
    re.ASCII,
)

STDIN = "-"
_OF_ARCHIVES = (None, "oci-archive", "docker-archive")
_OF_PATHS = (None, *get_args(LocalTransport))

CHOICES = 20
"""Most images that a message lists."""

_COPY_FIRST = "copy the image into a layout with `skopeo copy {} oci:DIR:TAG`"


class Reference(NamedTuple):
    """A parsed reference: a path and at most one of tag, digest and position."""

    text: str
    """As the user wrote it."""
    path: str
    """For a registry: `[HOST[:PORT]/]REPOSITORY`; or the URL of an archive, or the name of an image."""
    transport: Transport | None = None
    """None: determined by the content."""
    tag: str | None = None
    digest: Digest | None = None
    position: int | None = None
    """Position among the images of the source, from 0."""
    without: int = 0
    """Number of layers to leave out at the end."""

    @property
    def is_stdin(self) -> bool:
        """Whether it names an archive from standard input."""
        return self.path == STDIN and self.transport in _OF_ARCHIVES

    @property
    def is_url(self) -> bool:
        """Whether it names an archive on a web server."""
        return self.transport in _OF_ARCHIVES and _AT_URL.match(self.path) is not None

    @property
    def is_path(self) -> bool:
        """Whether `path` is a path on this machine."""
        return self.transport in _OF_PATHS and not self.is_stdin and not self.is_url

    def absolute(self, digest: Digest | None = None) -> str:
        """Return its text with an absolute path; `digest`, if given, takes the place of tag and position."""
        if self.transport not in _OF_PATHS:
            return self.text
        prefix = f"{self.transport}:" if self.transport else ""
        suffix = self.text.removeprefix(prefix).removeprefix(self.path) if digest is None else f"@{digest}"
        return prefix + (os.path.abspath(self.path) if self.is_path else self.path) + suffix

    def __str__(self) -> str:
        return printable_path(self.text)


class PathInImageError(UnsupportedError):
    """A path in an image, where only an image can be named: a usage error."""

    exit_code = 2


def host_of(name: str) -> str | None:
    """Return the first component if it is a host (github.com/distribution/reference)."""
    first, slash, _ = name.partition("/")
    return first if slash and (set(first) & set(".:") or first == "localhost" or first != first.lower()) else None


def canonical(full: str) -> str:
    """Return the full name as docker.io uses it."""
    host, _, repository = full.partition("/")
    if host in {"index.docker.io", "registry-1.docker.io"}:
        host = DOCKER
    if host == DOCKER and repository and "/" not in repository:
        repository = f"library/{repository}"
    return f"{host}/{repository}" if repository else host


def unconfigured(name: str, _suffix: str) -> tuple[str, bool]:
    """Return the full name of an image where no registries.conf counts: a short name is one of docker.io."""
    return canonical(name if host_of(name) else f"{DOCKER}/{name}"), False


def parse_reference(
    text: str,
    exists: Callable[[str], bool] = os.path.lexists,
    lengthen: Callable[[str, str], tuple[str, bool]] = unconfigured,
) -> Reference:
    """Parse a reference; `exists` returns whether a path exists.

    `lengthen` returns the full name of an image, as `ocifs.sources.registry.configuration.full_name`.

    Raises:
        NotFoundError: No path in it exists, and it is not a short name that stands for one image; or it is incomplete.
        InvalidImageError: Its digest, or the name of an image in a registry, is malformed.
        UnsupportedError: It names a transport or a digest algorithm that ocifs does not handle.
        PathInImageError: It is `REFERENCE:/PATH`.
    """
    _, inside = split_path(text, exists)
    if inside is not None:
        raise PathInImageError(f"IMAGE: '{printable_path(inside)}' is a path in the image: name a whole image here")
    if text.startswith(_REGISTRY):
        return _in_registry(text)
    if (elsewhere := _elsewhere(text)) is not None:
        return elsewhere
    transport, rest = _transport(text, exists)
    exists = _or_stdin(exists, transport)
    suffixed = None if exists(rest) else _WITHOUT.fullmatch(rest)
    rest, without = (suffixed[1], int(suffixed[2])) if suffixed else (rest, 0)
    path, tag, digest = _split(rest, exists)
    if not exists(path):
        if transport is None and (named := _IN_REGISTRY.fullmatch(rest)) and not _FOREIGN.match(text):
            return _by_name(named, text, path, lengthen)
        raise _no_such_path(text, path, transport)
    if tag == "":
        raise NotFoundError(f"'{printable_path(text)}' ends in an empty tag: leave the colon out, or name a tag")
    if digest is not None:
        return Reference(text, path, transport, digest=Digest(digest), without=without)
    if tag is not None and (positioned := _POSITION.fullmatch(tag)):
        return Reference(text, path, transport, position=int(positioned[1]), without=without)
    return Reference(text, path, transport, tag, without=without)


def split_path(text: str, exists: Callable[[str], bool] = os.path.lexists) -> tuple[str, str | None]:
    """Split `REFERENCE:/PATH` into the reference and the path in the image, which is None if there is none.

    The path begins at the first `:/` after the host's path, which ends as in a reference. A host's path that contains
    `:/` thus takes precedence if it exists. Neither part is checked further; `exists` returns whether a path exists.
    """
    if text.startswith(_REGISTRY):
        place = text.find(":/", len(_REGISTRY))
    elif (elsewhere := _AT_URL.fullmatch(text) or _NAMED.fullmatch(text)) is not None:
        place = text.find(":/", elsewhere.start(elsewhere.lastindex or 0))
    elif _URL.match(text):
        return text, None
    else:
        transport, rest = _transport(text, exists)
        exists = _or_stdin(exists, transport)
        end = _end_of_path(rest, exists)
        if transport is None and _FOREIGN.match(text) and not exists(rest[:end]):
            return text, None
        place = text.find(":/", len(text) - len(rest) + end)
    return (text[:place], text[place + 1 :]) if place > 0 else (text, None)


def _transport(text: str, exists: Callable[[str], bool]) -> tuple[LocalTransport | None, str]:
    """Return the transport that a reference begins with, and the rest of it."""
    match = _TRANSPORT.fullmatch(text)
    if match is None:
        return None, text
    transport, rest = cast("LocalTransport", match[1]), match[2]
    if transport == "dir" and exists("dir") and not exists(_split(rest, exists)[0]):
        return None, text
    return transport, rest


def _or_stdin(exists: Callable[[str], bool], transport: Transport | None) -> Callable[[str], bool]:
    """Return `exists`, but with standard input too where the transport may be an archive."""
    return (lambda path: path == STDIN or exists(path)) if transport in _OF_ARCHIVES else exists


def _in_registry(text: str) -> Reference:
    suffixed = _WITHOUT.fullmatch(text)
    named, without = (suffixed[1], int(suffixed[2])) if suffixed else (text, 0)
    match = _IN_REGISTRY.fullmatch(named.removeprefix(_REGISTRY))
    if match is None:
        # It may contain a password, so the message does not repeat it.
        raise InvalidImageError(
            "malformed name of an image in a registry: write docker://HOST[:PORT]/REPOSITORY[:TAG|@DIGEST], the "
            "repository in lower case, and credentials by --creds or --authfile"
        )
    path, tag, digest = match.groups()
    if digest is not None:
        return Reference(text, path, "docker", digest=Digest(digest), without=without)
    return Reference(text, path, "docker", tag or "latest", without=without)


def _elsewhere(text: str) -> Reference | None:
    """Return the image at a URL, or of a program; None: it is neither."""
    if (at_url := _AT_URL.fullmatch(text)) is not None:
        return _at_url(at_url, text)
    if (named := _NAMED.fullmatch(text)) is not None:
        return _by_program(named, text)
    if _URL.match(text):
        raise UnsupportedError(
            "ocifs reads archives at http:// and https:// only: write docker://HOST/REPOSITORY for an image in a "
            "registry, and `-` for an archive that another program pipes in"
        )
    return None


def _at_url(match: re.Match[str], text: str) -> Reference:
    """Return the archive at a URL, which ends at the first colon after its host and port."""
    transport, server, rest = cast("LocalTransport | None", match[1]), match[2], match[3]
    suffixed = _WITHOUT.fullmatch(rest)
    rest, without = (suffixed[1], int(suffixed[2])) if suffixed else (rest, 0)
    digested = _DIGESTED.fullmatch(rest)
    if digested is not None and ":" not in digested[1]:
        path, digest = digested.groups()
        return Reference(text, server + path, transport, digest=Digest(digest), without=without)
    path, colon, tag = rest.partition(":")
    if path.strip("/") == "":
        # It may contain a password, so the message does not repeat it.
        raise InvalidImageError(
            "the URL names no archive: write https://HOST/PATH/FILE[:TAG], or docker://HOST/REPOSITORY for an image in "
            "a registry"
        )
    if colon and not tag:
        raise NotFoundError("the URL ends in an empty tag: leave the colon out, or name a tag")
    if (positioned := _POSITION.fullmatch(tag)) is not None:
        return Reference(text, server + path, transport, position=int(positioned[1]), without=without)
    return Reference(text, server + path, transport, tag or None, without=without)


def _by_program(match: re.Match[str], text: str) -> Reference:
    """Return the image that a program on this machine knows by a name."""
    transport, name = cast("NamedTransport", match[1]), match[2]
    suffixed = _WITHOUT.fullmatch(name)
    name, without = (suffixed[1], int(suffixed[2])) if suffixed else (name, 0)
    if not name:
        raise NotFoundError(f"{transport}: names no image: write {transport}:NAME[:TAG]")
    return Reference(text, name, transport, without=without)


def _by_name(match: re.Match[str], text: str, path: str, lengthen: Callable[[str, str], tuple[str, bool]]) -> Reference:
    """Return the image in a registry that a short name stands for, written in full."""
    suffix = text[len(match[1]) :]
    name, is_known = lengthen(match[1], suffix)
    full = f"{_REGISTRY}{name}{suffix}"
    if is_known:
        return _in_registry(full)
    raise NotFoundError(
        f"no such file or directory: '{printable_path(path)}'; "
        f"if it is an image in a registry, write {printable_path(full)}"
    )


def _no_such_path(text: str, path: str, transport: Transport | None) -> OcifsError:
    if transport is None and _FOREIGN.match(text):
        hint = _COPY_FIRST.format(printable_path(text))
        return UnsupportedError(f"the transport of {printable_path(text)} is not supported: {hint}")
    if (reason := _hidden(path)) is not None:
        return NotFoundError(f"cannot open '{printable_path(path)}': {reason}")
    hint = "" if transport else "; an image in a registry is written docker://HOST/REPOSITORY:TAG"
    return NotFoundError(f"no such file or directory: '{printable_path(path)}'{hint}")


def _hidden(path: str) -> str | None:
    """Return why it cannot be said whether a path exists; None: it can."""
    try:
        os.lstat(path)
    except PermissionError as error:
        return error.strerror
    except (OSError, ValueError):
        return None
    return None


def _split(rest: str, exists: Callable[[str], bool]) -> tuple[str, str | None, str | None]:
    """Return path, tag and digest."""
    if exists(rest):
        return rest, None, None
    match = _DIGESTED.fullmatch(rest)
    if match and (":" not in match[1] or exists(match[1])):
        return match[1], None, match[2]
    end = _end_of_path(rest, exists)
    return rest[:end], rest[end + 1 :] if end < len(rest) else None, None


def _end_of_path(rest: str, exists: Callable[[str], bool]) -> int:
    """Return where the path ends: the longest one that exists up to a colon or the end, else up to the first colon."""
    if exists(rest):
        return len(rest)
    colons = [i for i, character in enumerate(rest) if character == ":"]
    return next((i for i in reversed(colons) if exists(rest[:i])), colons[0] if colons else len(rest))


def choices(candidates: Sequence[tuple[tuple[str, ...], str]], names: Sequence[tuple[str, ...]]) -> str:
    """Return the end of a message that lists (names, other label) of images to choose from.

    An image is listed by the last of its names that no other image among `names` has, or else by the other label.
    """
    labels = []
    for own, label in candidates[:CHOICES]:
        unique = [name for name in own if len(matching(name, names)) == 1]
        labels.append(f":{unique[-1]}" if unique else label)
    more = ", …" if len(candidates) > CHOICES else ""
    return f"choose one of {', '.join(map(shown, labels))}{more}" if labels else "it has none"


def matching(tag: str, names: Sequence[tuple[str, ...]]) -> list[int]:
    """Return the positions of the images called `tag`; `names` has the names of each image.

    A full name matches first; if no image has it, the end of a name matches: `app:1` and `1` for `HOST/app:1`.
    """
    exact = [i for i, own in enumerate(names) if tag in own]
    ends = (f"/{tag}", f":{tag}")
    return exact or [i for i, own in enumerate(names) if any(name.endswith(ends) for name in own)]
