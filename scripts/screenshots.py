"""screenshots.py IMAGE DIR: write the pictures of `ocifs explore` and `ocifs report` that the documentation shows.

IMAGE is a layout as scripts/make-debian-image writes it. It needs chromium and the fonts DejaVu Sans and DejaVu Sans
Mono. It changes into a directory where the image is called debian, so the pictures do not name a place on this machine.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ocifs.explore.app import Explorer
from ocifs.image.opening import open_image

_IMAGE = "debian:latest"
_SCREENS = {
    "explore.svg": ((80, 24), ["tab", "up", "tab", "s", "home", "down", "down", "right"]),
    "explore-wide.svg": ((200, 50), ["tab", "tab", "up", "tab", "slash", *r"\.conf$", "enter", "down", "down"]),
    "explore-waste.svg": ((80, 24), ["w", "enter"]),
}
"""Size in columns and lines, and the keys to press."""
_PAGES = {"report.png": (1280, 1000), "report-phone.png": (390, 844)}
"""Size in pixels."""


def main(image: Path, target: Path) -> None:
    """Write all pictures."""
    target = target.resolve()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "debian").symlink_to(image.resolve())
        os.chdir(directory)
        for picture, (size, keys) in _SCREENS.items():
            (target / picture).write_text(asyncio.run(_screen(size, keys)))
        subprocess.run([Path(sys.executable).with_name("ocifs"), "report", "-o", "report.html", _IMAGE], check=True)
        for picture, size in _PAGES.items():
            _photograph(directory / "report.html", target / picture, size)


async def _screen(size: tuple[int, int], keys: Sequence[str]) -> str:
    """Return a picture of `ocifs explore` after some keys, as SVG without references to other places."""
    with open_image(_IMAGE) as image:
        app = Explorer(image, lambda rootfs, path, destination: [])
        async with app.run_test(size=size) as pilot:
            for key in ["", *keys]:
                if key:
                    await pilot.press(key)
                await pilot.pause(0.5)
                await app.workers.wait_for_complete()
                await pilot.pause(0.2)
            svg = app.export_screenshot(title=f"ocifs explore {_IMAGE}")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono")
    return re.sub(r"terminal-\d+", "terminal", svg)


def _photograph(page: Path, picture: Path, size: tuple[int, int]) -> None:
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=10000"]
        command += ["--blink-settings=preferredColorScheme=1", f"--screenshot={picture}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
