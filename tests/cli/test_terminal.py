"""On a terminal: a bar while something is indexed, and no control characters from an image."""

import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cli.command import Argument, Ocifs
from tests.images import Image, Layer, write_layout
from tests.tars import file, tar


def _uncoloured(shown: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", shown)


def on_a_terminal(ocifs: Ocifs, *arguments: Argument, columns: int = 120) -> str:
    """Return what the terminal shows of a command of ocifs."""
    return _shown(ocifs.command(*arguments), ocifs.variables(TERM="xterm", COLUMNS=str(columns)))


def _shown(command: Sequence[str], variables: Mapping[str, str]) -> str:
    outer, inner = pty.openpty()
    process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=variables)
    os.close(inner)
    shown = b""
    try:
        while data := os.read(outer, 65536):
            shown += data
    except OSError:  # EIO: the terminal is closed
        pass
    os.close(outer)
    assert process.wait() == 0, shown
    return shown.decode()


def test_a_bar_is_drawn_while_a_layer_is_indexed_and_goes(ocifs: Ocifs, tmp_path: Path) -> None:
    data = file(b"big", random.Random(1).randbytes(8 << 20))
    image = write_layout(tmp_path / "image", Image(layers=(Layer(tar([data])),)))
    cold, warm = on_a_terminal(ocifs, "ls", image), on_a_terminal(ocifs, "ls", image)
    layer = max((image / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size).name
    assert f"indexing {layer[:12]}" in cold
    assert re.search(r"\d+% +[\d.]+ [KM]iB of +8 MiB", _uncoloured(cold))
    assert warm == "big\r\n"


_INDEX_TEN_LAYERS = """
from ocifs.cli.progress import indexing
from ocifs.spec.digest import Digest
with indexing() as progress:
    for number in range(10):
        layer = Digest(f"sha256:{number:012}{0:052}")
        progress(layer, 5, 10)
        progress(layer, 10, 10)
"""


def test_the_bar_of_a_layer_makes_room_when_it_is_done(ocifs: Ocifs) -> None:
    command = [sys.executable, "-c", _INDEX_TEN_LAYERS]
    shown = _shown(command, ocifs.variables(TERM="xterm", COLUMNS="120"))
    bars = [f"indexing {number:012}" for number in range(10)]
    assert all(bar in shown for bar in bars)
    with_the_last = shown[shown.index(bars[-1]) :]
    assert not any(bar in with_the_last for bar in bars[:-1])


_DOWNLOAD = """
import time
from ocifs.cli.progress import indexing
from ocifs.spec.digest import Digest
layer = Digest(f"sha256:{7:064}")
with indexing() as progress:
    for done in range(1, 9):
        progress.downloading(layer, done << 20, 10 << 20)
        progress(layer, done << 20, 10 << 20)
        time.sleep(0.15)
    progress.downloading(layer, 10 << 20, 10 << 20)
    progress(layer, 9 << 20, 10 << 20)
    progress.downloading(Digest(f"sha256:{8:064}"), 100, 200)
    time.sleep(0.2)
"""


def test_a_download_is_called_so_with_its_rate_and_the_time_left(ocifs: Ocifs) -> None:
    shown = _shown([sys.executable, "-c", _DOWNLOAD], ocifs.variables(TERM="xterm", COLUMNS="110"))
    shown = _uncoloured(shown)
    bars = re.findall(
        r"(downloading|indexing) 0{12}.*?(\d+)%\s+([\d.]+ MiB) of +10 MiB\s+(\S+ MiB/s)?\s*([-:\d]*)", shown
    )
    assert {what for what, *_ in bars} == {"downloading", "indexing"}
    assert all(int(percent) >= 90 for what, percent, *_ in bars if what == "indexing")
    assert any(rate and re.fullmatch(r"\d\d:\d\d", left) for *_, rate, left in bars)
    assert "200 B" not in shown  # no bar for a small document


def test_output_on_the_same_terminal_takes_the_place_of_the_bars(ocifs: Ocifs) -> None:
    script = """
import sys
from ocifs.cli.progress import bars
with bars() as drawn:
    drawn.advance("searching", 1, 2)
    drawn.hide()
    print("a match", flush=True)
    drawn.advance("searching", 1, 2)
"""
    shown = _shown([sys.executable, "-c", script], ocifs.variables(TERM="xterm", COLUMNS="110"))
    assert shown.count("searching") >= 1
    assert "searching" not in shown[shown.index("a match") :]


def test_control_characters_are_escaped(ocifs: Ocifs, demo: Path) -> None:
    ocifs.output("index", demo)
    for command in (["ls"], ["ls", "-l"], ["ls", "-R"], ["ls", "--json"]):
        shown = on_a_terminal(ocifs, *command, "--color=never", demo)
        assert "\x1b" not in shown
        assert "lines" in shown
    assert on_a_terminal(ocifs, "stat", demo, "two\nlines\x1b[31m").startswith("  File: two\\nlines\\x1b[31m\r\n")


def test_mount_on_a_terminal_gives_it_back(ocifs: Ocifs, demo: Path, fuse: None) -> None:
    ocifs.output("index", demo)
    mountpoint = ocifs.mountpoint()
    assert on_a_terminal(ocifs, "mount", demo, mountpoint) == ""
    assert (mountpoint / "file").read_text() == "content"
    ocifs.output("umount", mountpoint)


def test_an_interrupt_ends_it_in_one_line(ocifs: Ocifs, tmp_path: Path) -> None:
    image = write_layout(tmp_path / "image", Image(layers=(Layer(tar([file(b"big", bytes(256 << 20))])),)))
    process = ocifs.start("index", image)
    deadline = time.monotonic() + 20
    while not list(ocifs.cache.glob("entries/*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=20)
    assert (process.returncode, out, said) == (130, b"", b"ocifs: interrupted\n")
    assert list(ocifs.cache.glob("entries/*.tmp")) == []


_INTERRUPTED_EARLY = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "ocifs.cli.verbs":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from ocifs.cli.main import main
main()
"""


def test_an_interrupt_while_modules_are_loaded_ends_it_in_silence(ocifs: Ocifs) -> None:
    command = [sys.executable, "-c", _INTERRUPTED_EARLY, "cache", "ls"]
    ran = subprocess.run(command, env=ocifs.variables(), capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, b"", b"")
    ignoring = subprocess.run(["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command], env=ocifs.variables(), check=True)
    assert ignoring.returncode == 0
