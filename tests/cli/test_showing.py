"""`explore` on a terminal, and the page that `report` writes."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.command import Ocifs


def test_report_writes_a_page_whole(ocifs: Ocifs, demo: Path) -> None:
    target = ocifs.home / "report.html"
    assert ocifs.output("report", demo, "-o", target) == ""
    page = target.read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    assert ">/two\\nlines\\x1b[31m</a>" in page
    assert "\x1b" not in page
    assert ocifs.output("report", demo, "-o", "-") == page
    target.write_text("what was there before")
    ocifs.output("report", demo, "-o", "report.html")
    assert target.read_text() == page
    assert [path.name for path in ocifs.home.iterdir() if path.is_file()] == ["report.html"]


@pytest.mark.parametrize(
    ("target", "said"),
    [("missing/report.html", "No such file"), ("/dev/null", "exists"), (".", "exists"), ("/proc/report", "")],
)
def test_a_place_where_no_page_can_be(ocifs: Ocifs, demo: Path, target: str, said: str) -> None:
    ocifs.output("index", demo)
    assert said in ocifs.complaint(1, "report", demo, "-o", target)


def test_a_report_needs_a_place(ocifs: Ocifs, demo: Path) -> None:
    result = ocifs.run("report", demo)
    assert result.code == 2
    assert "--output" in result.err


def test_explore_needs_a_terminal(ocifs: Ocifs, demo: Path) -> None:
    result = ocifs.run("explore", demo)
    assert (result.code, result.out) == (2, b"")
    assert "needs a terminal" in result.err


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_explore_shows_an_image_and_gives_the_terminal_back(ocifs: Ocifs, demo: Path, key: bytes) -> None:
    ocifs.output("index", demo)
    outer, inner = pty.openpty()
    variables = ocifs.variables(TERM="xterm-256color", COLUMNS="80", LINES="24")
    process = subprocess.Popen(ocifs.command("explore", demo), stdin=inner, stdout=inner, stderr=inner, env=variables)
    os.close(inner)
    shown = b""
    deadline = time.monotonic() + 30
    pressed = False
    while time.monotonic() < deadline:
        if select.select([outer], [], [], 0.1)[0]:
            try:
                shown += os.read(outer, 65536)
            except OSError:  # EIO: the terminal is closed
                break
        if b"Files" in shown and not pressed:
            pressed = True
            os.write(outer, key)
    os.close(outer)
    assert process.wait(timeout=10) == 0, shown[-2000:]
    assert b"caf\\xe9" in shown
    assert b"\x1b[?1049h" in shown
    assert shown.rindex(b"\x1b[?1049l") > shown.rindex(b"\x1b[?1049h")


def test_explore_says_what_is_wrong_with_an_image(ocifs: Ocifs, tmp_path: Path) -> None:
    outer, inner = pty.openpty()
    process = subprocess.run(
        ocifs.command("explore", tmp_path / "missing"),
        stdin=inner,
        stdout=inner,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(inner)
    os.close(outer)
    assert process.returncode == 3
    assert process.stderr.startswith(b"ocifs: ")
