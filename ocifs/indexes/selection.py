"""Choosing among what is published of the layers of an image: in one order, so that it is always the same choice.

The formats come in the order of `PROVIDERS`, and what is offered in one format in the provider's order. The first offer
that opens is taken; what is wrong with one is a warning, and the next one is tried. Nobody is asked for more than is
still missing.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple

from ocifs.errors import OcifsError
from ocifs.indexes.artifact import OCIFS
from ocifs.indexes.candidate import Candidate, LookupContext, Provider, Runs
from ocifs.indexes.chunked import FOOTERS
from ocifs.indexes.chunked import PROVIDERS as TOCS
from ocifs.indexes.soci import SOCI_V1, SOCI_V2
from ocifs.layer.index import LayerIndex
from ocifs.pool import start
from ocifs.spec.digest import Digest

PROVIDERS: tuple[Provider, ...] = (OCIFS, SOCI_V2, SOCI_V1, *TOCS)

_AT_ONCE = 4


class SelectedIndex(NamedTuple):
    """An offer that was opened."""

    offer: Candidate
    layer_index: LayerIndex
    prefetch: Runs


Warn = Callable[[str], None]


def select_indexes(
    place: LookupContext,
    layers: Iterable[Digest],
    warn: Warn,
    *,
    bound: bool,
    providers: Iterable[Provider] = PROVIDERS,
) -> dict[Digest, SelectedIndex]:
    """Return what is taken for each of `layers` for which anything can be; with `bound`, only what is bound."""
    missing = set(layers)
    taken: dict[Digest, SelectedIndex] = {}
    for offers in find_candidates(place, warn, bound=bound, providers=providers):
        wanted = [offer for offer in offers if offer.layer in missing and (offer.bound or not bound)]
        for offer, opened in zip(wanted, _open_all(wanted), strict=True):
            if isinstance(opened, SelectedIndex):
                taken[offer.layer] = opened
            else:
                warn(f"layer {offer.layer}: its index {offer} is not used: {opened}")
        missing -= taken.keys()
        if not missing:
            break
    return taken


def providers(toc: str) -> tuple[Provider, ...]:
    """Return whom to ask, as `Options.toc` has it."""
    if toc == "ignore":
        return tuple(provider for provider in PROVIDERS if provider not in TOCS)
    return (*PROVIDERS, FOOTERS) if toc == "find" else PROVIDERS


def find_candidates(
    place: LookupContext, warn: Warn, *, bound: bool = False, providers: Iterable[Provider] = PROVIDERS
) -> Iterator[list[Candidate]]:
    """Give what is offered in the order in which it is taken; with `bound`, not what is never bound."""
    told = set()
    for provider in providers:
        if provider.can_bind or not bound:
            try:
                yield from provider.find(place)
            except OcifsError as error:
                if str(error) not in told:
                    warn(f"{place.resolved.name}: an index of the format {provider.name} is not used: {error}")
                told.add(str(error))


def _open_all(offers: list[Candidate]) -> list[SelectedIndex | OcifsError]:
    """Open some at a time."""
    waiting: queue.SimpleQueue[tuple[Candidate, Future[SelectedIndex | OcifsError]]] = queue.SimpleQueue()
    futures: list[Future[SelectedIndex | OcifsError]] = [Future() for _ in offers]
    for each in zip(offers, futures, strict=True):
        waiting.put(each)

    def work() -> None:
        with suppress(queue.Empty):
            while True:
                offer, future = waiting.get_nowait()
                try:
                    future.set_result(_open(offer))
                except Exception as error:  # noqa: BLE001 - it is for whoever waits
                    future.set_exception(error)

    # No executor: at the end of the program nobody waits for one that sits in a read from a network that is gone.
    for _ in offers[:_AT_ONCE]:
        start(threading.Thread(target=work, name="offer", daemon=True))
    return [future.result() for future in futures]


def _open(offer: Candidate) -> SelectedIndex | OcifsError:
    try:
        index = offer.open()
        return SelectedIndex(offer, index, offer.prefetch(index))
    except OcifsError as error:
        return error
