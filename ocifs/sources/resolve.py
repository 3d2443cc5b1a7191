"""From a reference to an image: open the source, choose a manifest by platform, read the config.

Size and digest of every document are verified before it is used; layers are verified by their readers. Indexes may
nest, up to a depth and a number that real ones never reach.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ocifs.errors import InvalidImageError, LimitError, NotFoundError, UnsupportedError, counted
from ocifs.limits import DEFAULT_LIMITS, Limits
from ocifs.sources.directory import Directory
from ocifs.sources.layout import Layout, open_layout
from ocifs.sources.platforms import MAX_CONFIGS, states_platform, with_platforms
from ocifs.sources.reference import CHOICES, Reference, Transport
from ocifs.sources.source import DocumentSource, LocalSource
from ocifs.spec.config import ImageConfig, parse_config
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import DiffID, Digest
from ocifs.spec.document import shown
from ocifs.spec.manifest import ImageIndex, Manifest, parse_document
from ocifs.spec.mediatypes import CONFIGS, INDEXES, MANIFESTS, Compression, describe_non_image, layer_type
from ocifs.spec.platform import Platform, best_match

if TYPE_CHECKING:
    from ocifs.sources.archive import Archive, Decompress

_INDEX_DEPTH = 8


class ImageLayer(NamedTuple):
    """A layer of a resolved image."""

    descriptor: Descriptor
    diff_id: DiffID
    compression: Compression
    """As the media type says; the bytes decide (`LayerIndex.mislabelled`)."""


class ResolvedImage(NamedTuple):
    """An image whose documents are read and verified."""

    name: str
    """The reference, printable."""
    descriptor: Descriptor
    """The manifest's descriptor."""
    manifest: Manifest
    config: ImageConfig
    layers: tuple[ImageLayer, ...]
    """The base layer first; a layer may occur twice, and the reference may leave out the last ones."""

    @property
    def digest(self) -> Digest:
        """The manifest's digest, which names the image."""
        return self.descriptor.digest


def open_source(
    reference: Reference,
    limits: Limits = DEFAULT_LIMITS,
    *,
    follow_links: bool = False,
    decompress: "Decompress | None" = None,
    warn: Callable[[str], None] = lambda message: None,
) -> LocalSource:
    """Open the local source that a reference names; the caller closes it.

    With `follow_links`, symlinks may lead out of a layout directory. `decompress` opens compressed archives. `warn`
    gets a notice if standard input is copied.

    Raises:
        NotFoundError: The path cannot be opened.
        InvalidImageError: It holds no images.
        UnsupportedError: They are stored in a way that cannot be read in place.
    """
    in_directory, open_in = _OPENERS[
        reference.transport or (None if reference.is_stdin else _transport_of(reference.path))
    ]
    with ExitStack() as stack:
        folder: Directory | Archive
        if in_directory:
            folder = Directory.at(reference.path, follow_links=follow_links)
        else:
            folder = _open_archive(reference, limits, decompress, warn)
        stack.callback(folder.close)
        source = open_in(folder, limits)
        stack.pop_all()
        return source


def open_archive(archive: "Archive", transport: Transport | None, limits: Limits = DEFAULT_LIMITS) -> LocalSource:
    """Return the source in an open archive, which it closes; `transport` as in a reference. Raises as `open_source`."""
    return _OPENERS[transport][1](archive, limits)


def _transport_of(path: str) -> Transport | None:
    """Return the transport of a directory; None: the content of the archive tells."""
    if not Path(path).is_dir():
        return None
    is_dir = os.path.lexists(os.path.join(path, "manifest.json"))
    return "dir" if is_dir and not os.path.lexists(os.path.join(path, "oci-layout")) else "oci"


def _open_archive(
    reference: Reference, limits: Limits, decompress: "Decompress | None", warn: Callable[[str], None]
) -> "Archive":
    from ocifs.sources.archive import Archive  # which a layout directory does without

    if reference.is_stdin:
        from ocifs.sources.spool import NAME, open_stdin

        return Archive.of(open_stdin(limits, warn), NAME, limits, decompress)
    return Archive.at(reference.path, limits, decompress)


def _open_docker_archive(archive: "Archive", limits: Limits) -> LocalSource:
    from ocifs.sources.docker_archive import open_docker_archive

    return open_docker_archive(archive, limits)


def _open_dir(folder: Directory, limits: Limits) -> LocalSource:
    from ocifs.sources.dir import open_dir

    return open_dir(folder, limits)


def _open_by_content(archive: "Archive", limits: Limits) -> LocalSource:
    if "oci-layout" not in archive:
        return _open_docker_archive(archive, limits)
    # `docker save` writes both kinds of metadata today. The layout says more, but that of Docker 25.0 may list nothing.
    layout = open_layout(archive, limits)
    if "manifest.json" in archive:
        if not layout.holds_an_image():
            return _open_docker_archive(archive, limits)
        layout.docker_reference = f"docker-archive:{archive.name}"
    return layout


_OPENERS: dict[Transport | None, tuple[bool, Callable[[Any, Limits], LocalSource]]] = {
    "oci": (True, open_layout),
    "dir": (True, _open_dir),
    "oci-archive": (False, open_layout),
    "docker-archive": (False, _open_docker_archive),
    None: (False, _open_by_content),
}
"""Whether the path is a directory, and what opens the source in that `Directory` or `Archive`, which it closes."""


def resolve_image(source: DocumentSource, reference: Reference, platform: Platform | None = None) -> ResolvedImage:
    """Resolve `reference` in `source` to an image for `platform`; None: for this machine, if there is a choice.

    Raises:
        NotFoundError: There is no such image, none for the platform, or a document is missing.
        InvalidImageError: A document is malformed, or contradicts its digest or another document.
        UnsupportedError: The image has a form or a layer that ocifs does not handle.
        LimitError: A document is too large, or there are too many indexes or layers.
    """
    descriptor = _choose(source, source.resolve(reference), platform, str(reference))
    resolved = resolve_manifest(source, descriptor, str(reference))
    built_for = resolved.config.platform
    if platform is not None and built_for.os and best_match(platform, [built_for]) is None:
        raise NotFoundError(f"{reference} is for {shown(str(built_for))} only, not for {platform}")
    if reference.without > len(resolved.layers):
        raise NotFoundError(f"{reference}: the image has only {counted(len(resolved.layers), 'layer')}")
    return resolved._replace(layers=resolved.layers[: len(resolved.layers) - reference.without])


def resolve_manifest(source: DocumentSource, descriptor: Descriptor, name: str) -> ResolvedImage:
    """Read a manifest and its config; raises as `resolve_image`."""
    manifest = parse_document(source.document(descriptor), _manifest_name(descriptor), descriptor.media_type)
    if not isinstance(manifest, Manifest):
        raise InvalidImageError(f"{_manifest_name(descriptor)} is an image index")
    if manifest.config.media_type not in CONFIGS:
        if manifest.artifact_type:
            raise UnsupportedError(f"{name} is {describe_non_image(manifest.media_type, manifest.artifact_type)}")
        raise UnsupportedError(f"{name} is not a container image: its config is '{shown(manifest.config.media_type)}'")
    config = parse_config(source.document(manifest.config), f"config {manifest.config.digest}")
    docker_reference = source.docker_reference if isinstance(source, Layout) else ""
    return ResolvedImage(name, descriptor, manifest, config, _layers(manifest, config, source.limits, docker_reference))


def manifests_of(source: DocumentSource, descriptor: Descriptor) -> list[Descriptor]:
    """Return the image manifests at `descriptor`: itself, or all in that index; raises as `resolve_image`."""
    return list(_manifests(source, [descriptor], _INDEX_DEPTH, set()))


def _manifest_name(descriptor: Descriptor) -> str:
    return f"manifest {descriptor.digest}"


def _choose(
    source: DocumentSource, candidates: Sequence[Descriptor], platform: Platform | None, name: str
) -> Descriptor:
    """Return the descriptor of the manifest for `platform`."""
    if len(candidates) == 1 and candidates[0].media_type in MANIFESTS:
        return candidates[0]
    manifests = list(_manifests(source, candidates, _INDEX_DEPTH, set()))
    if len(manifests) == 1 and manifests[0].platform is None:
        return manifests[0]
    if not manifests:
        raise NotFoundError(f"{name} lists no image")
    machine = platform or Platform.of_machine(os.uname().machine)
    best = _match(machine, manifests)
    unstated = len({each.digest for each in manifests if not states_platform(each)})
    if best is None:
        manifests = with_platforms(source, manifests)
        best = _match(machine, manifests)
    if best is not None:
        return best
    if unstated > MAX_CONFIGS:
        raise LimitError(f"{name} lists {unstated} manifests without a platform: name one by its digest")
    listed = dict.fromkeys(f"{shown(str(each.platform or Platform()))} ({each.digest})" for each in manifests)
    some = ", ".join(list(listed)[:CHOICES]) + (", …" if len(listed) > CHOICES else "")
    raise NotFoundError(f"{name} has no image for {machine}: choose with --platform, or a digest, from {some}")


def _match(platform: Platform, manifests: Sequence[Descriptor]) -> Descriptor | None:
    described = [(each, each.platform) for each in manifests if each.platform is not None]
    best = best_match(platform, [available for _, available in described])
    return None if best is None else described[best][0]


def _manifests(
    source: DocumentSource, descriptors: Sequence[Descriptor], depth: int, seen: set[Digest]
) -> Iterator[Descriptor]:
    """Yield the image manifests among `descriptors` and in the indexes among them, in order."""
    for descriptor in descriptors:
        if descriptor.media_type in MANIFESTS:
            if descriptor.artifact_type is None and not _is_attestation(descriptor):
                yield descriptor
        elif descriptor.media_type in INDEXES and descriptor.digest not in seen:
            seen.add(descriptor.digest)
            if depth == 0:
                raise LimitError(f"image indexes nest more than {_INDEX_DEPTH} deep: name a manifest by its digest")
            if len(seen) > source.limits.indexes:
                raise source.limits.passed("indexes", f"{len(seen)} image indexes to choose from")
            name = f"image index {descriptor.digest}"
            index = parse_document(source.document(descriptor), name, descriptor.media_type)
            if not isinstance(index, ImageIndex):
                raise InvalidImageError(f"{name} is a manifest")
            yield from _manifests(source, index.manifests, depth - 1, seen)


def _is_attestation(descriptor: Descriptor) -> bool:
    """Return whether BuildKit made it to describe another manifest: it has the shape of an image, but is not one."""
    return descriptor.platform is not None and descriptor.platform.os == "unknown"


def _layers(manifest: Manifest, config: ImageConfig, limits: Limits, docker_reference: str) -> tuple[ImageLayer, ...]:
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        hint = f": Docker 25.0 wrote such layouts, so name it {docker_reference}" if docker_reference else ""
        raise InvalidImageError(
            f"config {manifest.config.digest} has {counted(len(diff_ids), 'diff ID')} for "
            f"{counted(len(manifest.layers), 'layer')}{hint}"
        )
    if len(diff_ids) > limits.layers:
        raise limits.passed("layers", f"the image has {len(diff_ids)} layers")
    return tuple(
        ImageLayer(descriptor, diff_id, layer_type(descriptor.media_type, f"layer {descriptor.digest}").compression)
        for descriptor, diff_id in zip(manifest.layers, diff_ids, strict=True)
    )
