import os
import select
import signal

import pytest

from ocifs.mount.engine import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_tells_and_ends_nothing_else_however_often_it_comes(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert select.select([stop], [], [], 0)[0] == []
        for _ in range(3):
            signal.raise_signal(number)
        assert select.select([stop], [], [], 10)[0] == [stop]
    assert signal.getsignal(number) is before
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(stop)
