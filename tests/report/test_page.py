"""The page: whole in itself, deaf to what an image says, and drawn by a browser."""

import base64
import hashlib
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ocifs.image.opening import open_image
from ocifs.report.inspection import inspect_image
from ocifs.report.page import build_report, page
from ocifs.store import Store
from tests import images
from tests.tars import directory, file, tar

EVIL = "</script><img src=x onerror=alert(1)>"
_LAYERS = (
    [
        directory(b"big"),
        file(b"big/one", bytes(30_000)),
        file(b"big/two", bytes(20_000)),
        file(b"gone", bytes(7000)),
        file(b"<script>alert(1)<\xe2\x80\xa8", bytes(9000)),
        file(EVIL.encode(), bytes(8000)),
        file(b"'\"&amp;<!--", bytes(6000)),
    ],
    [file(b".wh.gone"), file(b"new", bytes(4000))],
)
_CONFIG: images.Json = {
    "config": {"Env": [f"EVIL={EVIL}"], "Labels": {EVIL: EVIL}, "User": "\x1b[31m<b>"},
    "history": [
        {"created_by": f"RUN {EVIL}", "created": EVIL, "comment": EVIL},
        {"created_by": EVIL, "empty_layer": True},
    ],
    "author": EVIL,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    layers = tuple(images.Layer(tar(members)) for members in _LAYERS)
    image = images.Image(layers, config=_CONFIG, manifest={"annotations": {EVIL: EVIL}})
    layout = images.write_layout(tmp_path_factory.mktemp("page") / "<layout>", image)
    with open_image(layout) as opened:
        return "".join(page(build_report(opened, inspect_image(opened.resolved, Store(None)))))


class _Elements(html.parser.HTMLParser):
    """The elements of a page with their attributes, and what the scripts and styles are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is not None:
            self.raw[self.cdata_elem].append(data)


def test_nothing_of_an_image_becomes_an_element(text: str) -> None:
    found = _Elements(text)
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 2
    assert not {"img", "b:", "iframe", "link", "object", "embed", "form", "base"} & set(tags)
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert "alert(1)" in text
    assert "<img" not in text
    assert "\x1b" not in text


def test_it_asks_nothing_of_anybody(text: str) -> None:
    found = _Elements(text)
    for _, attributes in found.elements:
        assert not {"src", "href", "srcset", "action", "style"} & attributes.keys()
    assert "url(" not in text
    assert "@import" not in text


def test_its_policy_lets_nothing_run_but_its_own(text: str) -> None:
    found = _Elements(text)
    policy = next(str(each["content"]) for _, each in found.elements if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    for name, part in (("script", found.raw["script"][-1]), ("style", found.raw["style"][0])):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_the_data_is_json_that_cannot_end_its_element(text: str) -> None:
    data = _Elements(text).raw["script"][0]
    assert not re.search("[<>&\u2028]", data)
    tree = json.loads(data)["tree"]
    assert "/" in tree["names"]
    assert any("<script>alert(1)<" in name for name in tree["names"])


@pytest.mark.parametrize("said", ["<h2>Layers</h2>", "6.84 KiB", "/gone", "removed", "<dd>EVIL=", "linux/amd64"])
def test_what_it_says(text: str, said: str) -> None:
    assert said in text


def test_what_is_left_out_is_said(layered_layout: Path) -> None:
    with open_image(layered_layout) as opened:
        text = "".join(page(build_report(opened, inspect_image(opened.resolved, Store(None)), most_nodes=5)))
    assert "The 5 largest files and directories are shown" in text


def test_an_image_without_layers_has_a_page(tmp_path: Path) -> None:
    with open_image(images.write_layout(tmp_path / "empty", images.Image(()))) as opened:
        assert "0</b> layers" in "".join(page(build_report(opened, inspect_image(opened.resolved, Store(None)))))


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("chromium is missing")
    return found


def test_a_browser_draws_the_map(text: str, chromium: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(text)
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
        "--enable-logging=stderr",
        "--window-size=900,900",
        "--virtual-time-budget=10000",  # so long the page may take, by its own clock
        "--dump-dom",
        f"file://{tmp_path}/page.html",
    ]
    for _ in range(3):  # a browser on a busy machine may be asked before it has drawn anything
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "CONSOLE" not in ran.stderr  # no error of the script, nothing that the policy had to stop
        boxes = re.findall(r'<div [^>]*data-number="\d+"[^>]*>([^<]*)', ran.stdout.partition('id="map"')[2])
        if boxes:
            break
    assert {"big/", "one", "two", "new"} <= set(boxes)
    assert any("&lt;script&gt;" in name for name in boxes)
