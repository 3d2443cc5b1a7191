"""Choosing among offers: one order, the first that opens, and no more asked than needed."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ocifs.errors import InvalidImageError, OcifsError, RegistryError, ShortageError
from ocifs.indexes.candidate import Candidate, LookupContext, Provider
from ocifs.indexes.refuted import note_refuted
from ocifs.indexes.selection import find_candidates, select_indexes
from ocifs.limits import DEFAULT_LIMITS
from ocifs.spec.digest import Digest
from ocifs.store import Store
from tests.shortage import no_threads

A, B = Digest.of(b"a"), Digest.of(b"b")


class _Named:
    name = "app"


def place(store: Store | None = None) -> LookupContext:
    anything: Any = _Named()
    return LookupContext(anything, anything, store or Store(None), DEFAULT_LIMITS, ExitStack())


def offer(layer: Digest, name: str, *, bound: bool = False, fails: str = "") -> Candidate:
    def opened() -> Any:
        if fails:
            raise InvalidImageError(fails)
        return name

    return Candidate(layer, name, Digest.of(name.encode()), 7, bound, opened, prefetch=lambda index: ())


def provider(name: str, *lists: list[Candidate], can_bind: bool = False, fails: OcifsError | None = None) -> Provider:
    def find(place: LookupContext) -> Iterator[list[Candidate]]:
        yield from lists
        if fails:
            raise fails

    return Provider(name, can_bind, find)


def choose(providers: list[Provider], *, bound: bool = False) -> tuple[dict[Digest, str], list[str]]:
    warnings: list[str] = []
    taken = select_indexes(place(), [A, B], warnings.append, bound=bound, providers=providers)
    return {layer: each.candidate.format for layer, each in taken.items()}, warnings


@pytest.mark.parametrize(
    ("providers", "expected"),
    [
        ([], {}),
        ([provider("1", [offer(A, "1")]), provider("2", [offer(A, "2"), offer(B, "2")])], {A: "1", B: "2"}),
        ([provider("1", [offer(A, "new")], [offer(A, "old"), offer(B, "old")])], {A: "new", B: "old"}),
        ([provider("1", [offer(Digest.of(b"c"), "1")])], {}),
    ],
)
def test_the_first_of_each_layer_is_taken(providers: list[Provider], expected: dict[Digest, str]) -> None:
    assert choose(providers) == (expected, [])


def test_what_does_not_open_is_told_and_the_next_one_taken() -> None:
    taken, warnings = choose([provider("1", [offer(A, "1", fails="torn")]), provider("2", [offer(A, "2")])])
    assert taken == {A: "2"}
    assert warnings == [f"layer {A}: its index 1 {Digest.of(b'1')} is not used: torn"]


def test_a_refuted_one_is_not_opened_and_the_next_one_taken(store: Store) -> None:
    """Not even fetched. It may still be right for another layer."""
    false = offer(A, "1", fails="it was opened")
    note_refuted(store, str(false), A, "it lies")
    warnings: list[str] = []
    providers = [provider("1", [false, offer(B, "1")]), provider("2", [offer(A, "2")])]
    taken = select_indexes(place(store), [A, B], warnings.append, bound=False, providers=providers)
    assert {layer: each.candidate.format for layer, each in taken.items()} == {A: "2", B: "1"}
    assert warnings == [f"layer {A}: its index {false} is not used: it is refuted: it lies"]


def test_a_provider_that_fails_is_told_and_the_next_one_asked() -> None:
    failing = provider("1", [offer(A, "1")], fails=RegistryError("gone"))
    taken, warnings = choose([failing, provider("2", [offer(A, "2"), offer(B, "2")])])
    assert taken == {A: "1", B: "2"}
    assert warnings == ["app: an index of the format 1 is not used: gone"]


def test_no_lookup_runs_when_nothing_is_missing() -> None:
    asked = provider("2", fails=RegistryError("was asked"))
    assert choose([provider("1", [offer(A, "1"), offer(B, "1")]), asked]) == ({A: "1", B: "1"}, [])


def test_where_only_what_is_bound_may_be_used() -> None:
    unbound = provider("1", [offer(A, "1")], fails=RegistryError("was asked"))
    both = provider("2", [offer(A, "2"), offer(B, "2", bound=True)], can_bind=True)
    assert choose([unbound, both], bound=True) == ({B: "2"}, [])


def test_all_are_found_in_order() -> None:
    providers = [provider("1", [offer(A, "1")]), provider("2", [offer(A, "2")], can_bind=True)]
    found = find_candidates(place(), lambda message: None, providers=providers)
    assert [str(each) for offers in found for each in offers] == [f"{n} {Digest.of(n.encode())}" for n in "12"]


def test_a_defect_in_an_offer_comes_out_however_many_there_are() -> None:
    def defect() -> Any:
        raise KeyError("an unexpected error")

    offers = [Candidate(A, str(n), Digest.of(b"%d" % n), 7, False, defect, prefetch=lambda index: ()) for n in range(9)]
    with pytest.raises(KeyError, match="an unexpected error"):
        choose([provider("1", offers)])


def test_offers_need_a_thread() -> None:
    with no_threads(), pytest.raises(ShortageError, match="no more threads"):
        choose([provider("1", [offer(A, "1")])])
