import os
import subprocess
import threading
from pathlib import Path

import pytest

from ocifs.process import stat_of, status_of

NAMES = [b"a) R (b", b"a\rState:\tZ", b"\xff\x85\n:"]
"""Names that look like other fields; the kernel escapes newlines and backslashes in `status`."""


def test_the_fields_of_this_process() -> None:
    stat, status = stat_of(os.getpid()), status_of("self")
    assert stat.name == Path("/proc/self/comm").read_text().removesuffix("\n")
    assert (stat.state, stat.parent) == ("R", os.getppid())
    assert stat.began <= float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")
    assert (int(status["Pid"]), int(status["Tgid"])) == (threading.get_native_id(), os.getpid())
    assert status["State"].startswith("R")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_other_field(name: bytes, tmp_path: Path) -> None:
    process = tmp_path / "1"
    process.mkdir()
    escaped = name.replace(b"\n", b"\\n")
    zeros = b"0 "
    rest = b"S 7 1 1 0 -1 4194560 " + zeros * 4 + b"3 4 " + zeros * 6 + b"99 0 0\n"
    (process / "stat").write_bytes(b"1 (" + name + b") " + rest)
    (process / "status").write_bytes(b"Name:\t" + escaped + b"\nState:\tS (sleeping)\nCapEff:\t0000000000000001\n")
    stat, status = stat_of(1, tmp_path), status_of(1, tmp_path)
    assert stat == (name.decode(errors="replace"), "S", 7, 0x400100, 3 + 4, 99)
    assert (status["State"], status["CapEff"]) == ("S (sleeping)", "0000000000000001")
    assert status["Name"] == escaped.decode(errors="replace")


def test_a_process_that_has_ended() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert stat_of(process.pid).state == "Z"
    process.wait()
    with pytest.raises(OSError, match=r"No such (file|process)"):
        stat_of(process.pid)
