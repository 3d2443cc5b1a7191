"""The simulation of a fleet, on traces whose times can be computed by hand."""

import pytest

from benchmarks.fleet import Step, Trace, simulate, trace_of
from tests.registry import Transfer

ONE = Trace((Step("a", 125_000_000, -1, 0.0),), 0.5)
"""One answer of 125 MB: a second on the link of a node, a tenth on that of the registry."""


@pytest.mark.parametrize(
    ("nodes", "mirrors", "seconds", "answers"),
    [
        (1, 0, 1.5, 1),
        (10, 0, 1.5, 10),  # they fill the registry's link
        (100, 0, 10.5, 100),
        (100, 10, 2.5, 10),  # a second from the registry to the mirrors, and one to the nodes
        (1000, 20, 7.5, 20),
    ],
)
def test_one_answer(nodes: int, mirrors: int, seconds: float, answers: int) -> None:
    result = simulate(ONE, nodes, mirrors, jitter=0.0)
    assert result.last == pytest.approx(seconds, abs=0.01)
    assert (result.registry_requests, result.registry_bytes) == (answers, answers * 125_000_000)
    assert len(result.times) == nodes


def test_a_request_waits_for_the_answer_before_it() -> None:
    transfers = [
        Transfer("/m?x", "", 1.0, 2.0, 10),
        Transfer("/a", "bytes=0-4", 2.5, 4.0, 5),
        Transfer("/b", "", 2.75, 3.0, 7),
        Transfer("/c", "", 3.5, 5.0, 1),
        Transfer("/late", "", 5.0, 9.0, 1),
    ]
    trace = trace_of(transfers, 0.5, 6.0)
    assert trace.steps == (
        Step("/m ", 10, -1, 0.5),
        Step("/a bytes=0-4", 5, 0, 0.5),
        Step("/b ", 7, 0, 0.75),
        Step("/c ", 1, 2, 0.5),
    )
    assert trace.rest == 1.0
    assert simulate(trace, 1, 0, jitter=0.0).last == pytest.approx(0.5 + 0.75 + 0.5 + 1.0, abs=0.01)
