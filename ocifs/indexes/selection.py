"""Select among the published indexes of an image's layers, in one fixed order, so the choice is always the same.

Formats are tried in the order of `PROVIDERS`, and candidates of one format in the provider's order. The first candidate
that opens is selected. A candidate that fails to open, or was refuted before, is a warning, and the next one is tried.
Only missing layers are looked up.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ocifs.errors import OcifsError
from ocifs.indexes.artifact import OCIFS
from ocifs.indexes.candidate import Candidate, LookupContext, Provider, Runs
from ocifs.indexes.chunked import FOOTERS
from ocifs.indexes.chunked import PROVIDERS as TOCS
from ocifs.indexes.refuted import why_refuted
from ocifs.indexes.soci import SOCI_V1, SOCI_V2
from ocifs.layer.index import LayerIndex
from ocifs.pool import Pool
from ocifs.spec.digest import Digest
from ocifs.store import Store

PROVIDERS: tuple[Provider, ...] = (OCIFS, SOCI_V2, SOCI_V1, *TOCS)

_PARALLEL = 4


class SelectedIndex(NamedTuple):
    """A candidate that was opened."""

    candidate: Candidate
    layer_index: LayerIndex
    prefetch: Runs


Warn = Callable[[str], None]


def select_indexes(
    context: LookupContext,
    layers: Iterable[Digest],
    warn: Warn,
    *,
    bound: bool,
    providers: Iterable[Provider] = PROVIDERS,
) -> dict[Digest, SelectedIndex]:
    """Return the selected index for each of `layers` that has one; with `bound`, only bound candidates count."""
    missing = set(layers)
    selected: dict[Digest, SelectedIndex] = {}
    for candidates in find_candidates(context, warn, bound=bound, providers=providers):
        eligible = [
            candidate
            for candidate in candidates
            if candidate.layer in missing
            and (candidate.bound or not bound)
            and not _is_refuted(context.store, candidate, warn)
        ]
        for candidate, opened in zip(eligible, _open_all(eligible), strict=True):
            if isinstance(opened, SelectedIndex):
                selected[candidate.layer] = opened
            else:
                warn(f"layer {candidate.layer}: its index {candidate} is not used: {opened}")
        missing -= selected.keys()
        if not missing:
            break
    return selected


def providers(toc: str) -> tuple[Provider, ...]:
    """Return the providers to ask for a value of `Options.toc`."""
    if toc == "ignore":
        return tuple(provider for provider in PROVIDERS if provider not in TOCS)
    return (*PROVIDERS, FOOTERS) if toc == "find" else PROVIDERS


def find_candidates(
    context: LookupContext, warn: Warn, *, bound: bool = False, providers: Iterable[Provider] = PROVIDERS
) -> Iterator[list[Candidate]]:
    """Yield the candidates in order of selection; with `bound`, skip formats that are never bound."""
    warned = set()
    for provider in providers:
        if provider.can_bind or not bound:
            try:
                yield from provider.find(context)
            except OcifsError as error:
                if str(error) not in warned:
                    warn(f"{context.resolved.name}: an index of the format {provider.name} is not used: {error}")
                warned.add(str(error))


def _is_refuted(store: Store, candidate: Candidate, warn: Warn) -> bool:
    """Whether a verification has refuted a candidate; warn of that."""
    reason = why_refuted(store, str(candidate), candidate.layer)
    if reason is not None:
        warn(f"layer {candidate.layer}: its index {candidate} is not used: it is refuted: {reason}")
    return reason is not None


def _open_all(candidates: list[Candidate]) -> list[SelectedIndex | OcifsError]:
    """Open the candidates, up to four at a time."""
    threads = Pool(_PARALLEL)
    try:
        opening = [threads.submit(_open, candidate) for candidate in candidates]
        return [each.result() for each in opening]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # a thread may read from a dead network


def _open(candidate: Candidate) -> SelectedIndex | OcifsError:
    try:
        index = candidate.open()
        return SelectedIndex(candidate, index, candidate.prefetch(index))
    except OcifsError as error:
        return error
