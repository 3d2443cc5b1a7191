import signal
import subprocess

from ocifs.mount.pack_builder import result_of
from ocifs.mount.record import PackRecord


def test_a_builder_that_does_not_end_is_ended() -> None:
    builder = subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE)
    builder.send_signal(signal.SIGSTOP)
    assert result_of(builder, seconds=0.1) == PackRecord()
    assert builder.returncode == -signal.SIGKILL
