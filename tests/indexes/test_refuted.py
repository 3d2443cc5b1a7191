"""The memory of refuted indexes: by document and layer, spared by eviction, bounded, and empty after `cache clear`."""

import os
from pathlib import Path

import pytest

from ocifs.cli.verbs import run
from ocifs.indexes.refuted import note_refuted, why_refuted
from ocifs.spec.digest import Digest
from ocifs.store import Kind, Store

A, B = Digest.of(b"a"), Digest.of(b"b")
INDEX = f"ocifs {Digest.of(b'index')}"


def test_a_document_is_refuted_for_its_layer_only(store: Store) -> None:
    assert why_refuted(store, INDEX, A) is None
    note_refuted(store, INDEX, A, "it lies")
    note_refuted(store, INDEX, A, "again")
    assert why_refuted(store, INDEX, A) == "it lies"
    assert why_refuted(store, INDEX, B) is None
    assert why_refuted(store, INDEX.replace("ocifs", "soci-v1"), A) is None
    assert why_refuted(Store(None), INDEX, A) is None


def test_eviction_spares_it_until_the_cache_is_cleared(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    note_refuted(store, INDEX, A, "it lies")
    store.get(Kind("blob", 1, checked=False), B, lambda out: out.write(b"x" * 10_000)).close()
    store.prune(1)
    assert [entry.kind for entry in store.entries()] == ["refuted1"]
    assert why_refuted(store, INDEX, A) == "it lies"
    assert run(["cache", "clear", "--cache-dir", str(store.directory)], None) == 0
    assert why_refuted(store, INDEX, A) is None


def test_a_damaged_note_still_refutes(store: Store) -> None:
    note_refuted(store, INDEX, A, "it lies")
    (path,) = (store.directory or Path()).glob("entries/refuted*")
    os.truncate(path, 10)
    assert why_refuted(store, INDEX, A) == "the note with the reason is damaged"


def test_notes_are_bounded(store: Store) -> None:
    """The oldest ones go, and long reasons are cut."""
    for number in range(5):
        note_refuted(store, INDEX, Digest.of(b"%d" % number), "é" * 10_000, most=3)
    known = [why_refuted(store, INDEX, Digest.of(b"%d" % number)) for number in range(5)]
    assert [each is not None for each in known] == [False, False, True, True, True]
    assert known[-1] == "é" * 2000
