"""Referrers in a registry (distribution spec): through the API, or through the referrers tag where that is missing.

Updating the tag means reading, changing and writing its index, which is a race. So the index is read again afterwards,
and a change that another client has overwritten is repeated.
"""

import contextlib
from collections.abc import Callable
from typing import Literal
from urllib.parse import quote

import msgspec

from ocifs.errors import InvalidImageError, NotFoundError, RegistryError
from ocifs.sources.referrers import NewBlob
from ocifs.sources.registry.pages import read_page
from ocifs.sources.registry.session import RegistryResponse, Session
from ocifs.sources.registry.transport import read_all
from ocifs.spec.artifact import parse_artifact, referrers_tag
from ocifs.spec.descriptor import Descriptor
from ocifs.spec.digest import Digest
from ocifs.spec.document import decode, parse_json
from ocifs.spec.mediatypes import OCI_INDEX, OCI_MANIFEST

_PAGES = 20
_TRIES = 5
_UNTYPED = 20
"""Most manifests that are read to learn their types."""
_PUSH = "pull,push"
_MAX_BODY = 1 << 20
"""Most bytes of a body that is ignored."""
_ACCEPT = {"Accept": f"{OCI_INDEX}, {OCI_MANIFEST}"}


class _Listed(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """An image index whose list may be absent or null, as programs in Go write it."""

    schema_version: Literal[2]
    manifests: tuple[Descriptor, ...] = ()


def list_referrers(session: Session, subject: Digest) -> list[Descriptor]:
    """Return the manifests whose subject is `subject`, with their types.

    It does not let the API filter by type: a caller may want several types, and where the API is missing each query
    takes two requests.
    """
    found = _listed_by_api(session, subject)
    if found is None:
        found = _tagged(session, subject)
    untyped = [each for each in found if each.artifact_type is None and each.media_type == OCI_MANIFEST]
    types = {each.digest: _type_of(session, each) for each in untyped[:_UNTYPED]}
    return [msgspec.structs.replace(each, artifact_type=types.get(each.digest, each.artifact_type)) for each in found]


def push(session: Session, subject: Descriptor, manifest: NewBlob, blobs: list[NewBlob]) -> None:
    """Write an artifact, and list it under the referrers tag if the registry does not support the API."""
    for blob in blobs:
        _push_blob(session, blob)
    data = manifest.blob.pread(manifest.descriptor.size, 0)
    answer = _put_manifest(session, str(manifest.descriptor.digest), data, OCI_MANIFEST)
    if "OCI-Subject" not in answer.response.headers:
        listed = msgspec.structs.replace(manifest.descriptor, data=None)
        _change_tag(session, subject.digest, lambda found: [*_without(found, listed), listed])


def push_image(session: Session, tag: str, manifests: list[NewBlob], blobs: list[NewBlob]) -> None:
    """Write manifests, tag the last one, and write the blobs that the repository lacks."""
    for blob in blobs:
        _push_blob(session, blob)
    for manifest in manifests:
        descriptor = manifest.descriptor
        name = tag if manifest is manifests[-1] else str(descriptor.digest)
        _put_manifest(session, name, manifest.blob.pread(descriptor.size, 0), descriptor.media_type)


def remove(session: Session, subject: Descriptor, manifest: Descriptor) -> None:
    """Remove the manifest of an artifact, also from the referrers tag."""
    if _tagged(session, subject.digest):
        _change_tag(session, subject.digest, lambda found: _without(found, manifest))
    what = f"manifest {manifest.digest}"
    _finish(
        session.with_retries(
            lambda: session.request("DELETE", f"manifests/{manifest.digest}", {}, what=what, actions="pull,push,delete")
        )
    )


def _listed_by_api(session: Session, subject: Digest) -> list[Descriptor] | None:
    """Return the list from the API; None where the API is missing."""
    path = f"referrers/{subject}"
    found: list[Descriptor] = []
    for _ in range(_PAGES):
        try:
            data, path = read_page(session, path, _ACCEPT, f"referrers/{subject}")
        except NotFoundError:
            return None
        found += _parse(data, f"list of referrers of {subject}")
        if not path:
            break
    return found


def _tagged(session: Session, subject: Digest) -> list[Descriptor]:
    """Return the list under the referrers tag."""
    tag = referrers_tag(subject)
    try:
        data, _ = read_page(session, f"manifests/{tag}", _ACCEPT, f"manifests/{tag}")
    except NotFoundError:
        return []
    name = f"index {tag}"
    members = parse_json(data, name)
    if isinstance(members, dict) and "config" in members:  # a tool has copied an artifact to the referrers tag
        artifact = parse_artifact(data, name)
        kind = artifact.artifact_type or artifact.config.media_type
        return [Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(data), size=len(data), artifact_type=kind)]
    return _parse(data, name)


def _type_of(session: Session, manifest: Descriptor) -> str | None:
    """Return the type of a manifest that the list does not state; None: unknown."""
    try:
        data, _ = read_page(session, f"manifests/{manifest.digest}", _ACCEPT, f"manifests/{manifest.digest}")
        artifact = parse_artifact(data, f"manifest {manifest.digest}")
    except (NotFoundError, InvalidImageError):
        return None
    return artifact.artifact_type or artifact.config.media_type


def _parse(data: bytes, name: str) -> list[Descriptor]:
    return list(decode(data, _Listed, name).manifests)


def _without(found: list[Descriptor], manifest: Descriptor) -> list[Descriptor]:
    return [each for each in found if each.digest != manifest.digest]


def _change_tag(session: Session, subject: Digest, change: Callable[[list[Descriptor]], list[Descriptor]]) -> None:
    for _ in range(_TRIES):
        before = _tagged(session, subject)
        after = change(before)
        if after == before:
            return
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": after}
        _put_manifest(session, referrers_tag(subject), msgspec.json.encode(document, enc_hook=str), OCI_INDEX)
    if change(before := _tagged(session, subject)) != before:
        raise RegistryError(f"another client changes the referrers of {subject} at the same time: try again")


def _push_blob(session: Session, blob: NewBlob) -> None:
    digest = blob.descriptor.digest
    what = f"blob {digest}"
    try:
        _finish(session.with_retries(lambda: session.request("HEAD", f"blobs/{digest}", {}, what=what, actions=_PUSH)))
    except NotFoundError:
        data = blob.blob.pread(blob.descriptor.size, 0)
        session.with_retries(lambda: _upload(session, digest, data, what))


def _upload(session: Session, digest: Digest, data: bytes, what: str) -> None:
    begun = session.request("POST", "blobs/uploads/", {}, what=f"upload location of {what}", actions=_PUSH, body=b"")
    _finish(begun)
    location = begun.response.headers.get("Location", "")
    if not location:
        raise InvalidImageError(f"{begun.host} returned no upload location for {what}")
    url = f"{location}{'&' if '?' in location else '?'}digest={quote(digest)}"
    headers = {"Content-Type": "application/octet-stream"}
    _finish(session.request("PUT", url, headers, what=what, actions=_PUSH, body=data))


def _put_manifest(session: Session, name: str, data: bytes, media_type: str) -> RegistryResponse:
    headers = {"Content-Type": media_type}
    what = f"manifest {name}"
    answer = session.with_retries(
        lambda: session.request("PUT", f"manifests/{name}", headers, what=what, actions=_PUSH, body=data)
    )
    _finish(answer)
    return answer


def _finish(answer: RegistryResponse) -> None:
    """Release the connection; the body is ignored."""
    with contextlib.suppress(RegistryError):
        read_all(answer.response, answer.host, _MAX_BODY, answer.timeouts)
