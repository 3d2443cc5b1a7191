"""Capabilities as `podman run --cap-add` and `--cap-drop` change them."""

import ctypes

import pytest

from ocifs.bundle.capabilities import ALL, bounding_set, changed, check_changes, parse_capability

_ALL = (1 << 41) - 1
_PR_CAPBSET_READ = 23


@pytest.mark.parametrize("text", ["NET_RAW", "net_raw", "CAP_NET_RAW", "cap_Net_Raw"])
def test_a_name_in_any_form(text: str) -> None:
    assert parse_capability(text) == "CAP_NET_RAW"


def test_all_has_no_prefix() -> None:
    assert parse_capability("all") == ALL
    for wrong in ("CAP_ALL", "", "CAP_", "NET RAW", "FOO"):
        with pytest.raises(ValueError, match="is not a capability"):
            parse_capability(wrong)


@pytest.mark.parametrize(
    ("add", "drop", "result"),
    [
        ([], [], ["CAP_CHOWN", "CAP_KILL"]),
        (["CAP_NET_RAW"], [], ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]),
        (["CAP_CHOWN"], ["CAP_KILL", "CAP_BPF"], ["CAP_CHOWN"]),
        ([], [ALL], []),
        (["CAP_BPF", "CAP_FOWNER"], [ALL], ["CAP_FOWNER", "CAP_BPF"]),
        (["CAP_BPF"], [ALL, "CAP_CHOWN"], ["CAP_BPF"]),
    ],
)
def test_changes(add: list[str], drop: list[str], result: list[str]) -> None:
    assert list(changed(["CAP_CHOWN", "CAP_KILL"], add, drop, _ALL)) == result


def test_all_is_what_this_process_may_have() -> None:
    assert changed([], [ALL], ["CAP_CHOWN"], 0b1001) == ("CAP_FOWNER",)
    assert len(changed([], [ALL], [], _ALL)) == 41


def test_a_capability_is_added_or_dropped() -> None:
    check_changes(["CAP_CHOWN"], [ALL])
    for both in ("CAP_CHOWN", ALL):
        with pytest.raises(ValueError, match=f"{both} is both added and dropped"):
            check_changes([both], [both])


def test_the_bounding_set() -> None:
    allowed = (ctypes.CDLL(None).prctl(_PR_CAPBSET_READ, number) == 1 for number in range(63))
    assert bounding_set() == sum(bit << number for number, bit in enumerate(allowed))
