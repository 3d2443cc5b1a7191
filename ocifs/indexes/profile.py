"""Profiles recorded on this machine: at most one for each image in the store; a new one replaces it.

The entry is a JSON object with SOCI's prefetch document for each layer, by the digest of its blob.
"""

import msgspec

from ocifs.errors import OcifsError
from ocifs.layer.profile import Prefetch, Profile
from ocifs.spec.digest import Digest
from ocifs.spec.document import decode
from ocifs.store import Kind, Store

PROFILE = Kind("profile", 1)

_MAX = 4 << 20


def save_profile(store: Store, image: Digest, profile: Profile) -> None:
    """Save the profile of the image whose manifest has the digest `image`, replacing any other. Raises StoreError."""
    document = {layer: Prefetch(version="1.0", prefetch_spans=runs) for layer, runs in profile.items()}
    store.get(PROFILE, image, lambda out: out.write(msgspec.json.encode(document)), anew=True).close()


def load_profile(store: Store, image: Digest) -> Profile:
    """Return the saved profile of an image, or an empty one if it is missing or unreadable."""
    file = store.load(PROFILE, image)
    if file is None:
        return {}
    try:
        document = decode(file.pread(_MAX, 0), dict[str, Prefetch], f"profile of {image}")
    except OcifsError:
        return {}
    finally:
        file.close()
    return {layer: prefetch.prefetch_spans for layer, prefetch in document.items()}
