"""Profiles that are kept on this machine."""

from pathlib import Path

import pytest

from ocifs.indexes.profile import PROFILE, load_profile, save_profile
from ocifs.layer.profile import Profile, Run
from ocifs.spec.digest import Digest
from ocifs.store import Store

IMAGE = Digest.of(b"an image")
PROFILES: list[Profile] = [{"sha256:one": (Run(1, 2, 3, 4), Run(0, 0))}, {"sha256:two": (Run(5, 5),)}]


def test_the_last_one_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert load_profile(store, IMAGE) == {}
    for profile in PROFILES:
        save_profile(store, IMAGE, profile)
        assert load_profile(Store(tmp_path), IMAGE) == profile
    assert load_profile(store, Digest.of(b"another image")) == {}
    assert [(entry.kind, entry.subject) for entry in store.entries()] == [("profile1", IMAGE)]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"sha256:one": []}', b'{"sha256:one": {"version": 1}}'])
def test_what_is_no_profile_is_none(tmp_path: Path, data: bytes) -> None:
    store = Store(tmp_path)
    store.get(PROFILE, IMAGE, lambda out: out.write(data)).close()
    assert load_profile(store, IMAGE) == {}
