"""The page: whole in itself, deaf to what an image says, and drawn by a browser."""

import base64
import hashlib
import html
import html.parser
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
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
        assert not {"src", "srcset", "action", "style"} & attributes.keys()
        assert str(attributes.get("href", "#")).startswith("#")
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


@pytest.mark.parametrize(
    "said",
    [
        ">Layers</h2>",
        "6.84 KiB</b> hidden, 8.3%",
        "8.3% of the 82 KiB in the layers",
        'data-path="/gone">/gone</a>',
        "removed by",
        "<dd>EVIL=",
        "linux/amd64",
    ],
)
def test_what_it_says(text: str, said: str) -> None:
    assert said in text


def test_what_is_left_out_is_said(layered_layout: Path) -> None:
    with open_image(layered_layout) as opened:
        text = "".join(page(build_report(opened, inspect_image(opened.resolved, Store(None)), most_nodes=5)))
    assert "the 5 largest files and directories; 15 smaller ones" in text


def test_an_image_without_layers_has_a_page(tmp_path: Path) -> None:
    with open_image(images.write_layout(tmp_path / "empty", images.Image(()))) as opened:
        text = "".join(page(build_report(opened, inspect_image(opened.resolved, Store(None)))))
    assert "0</b> layers" in text
    assert "No layer replaces or removes a file" in text
    assert "Largest files" not in text


def many_directories(tmp_path: Path) -> str:
    """Return the page of an image that hides files in 12 directories of 30 files each."""
    members = [file(f"d{number:02}/{name}".encode(), bytes(1500)) for number in range(12) for name in range(30)]
    removed = [file(f".wh.d{number:02}".encode()) for number in range(12)]
    layers = (images.Layer(tar(members)), images.Layer(tar(removed)), images.Layer(tar([file(b"x", b"x")])))
    history = [{"created_by": "first"}, {"created_by": "nothing", "empty_layer": True}, {"created_by": "second"}]
    layout = images.write_layout(tmp_path / "many", images.Image(layers, config={"history": history}))
    with open_image(layout) as opened:
        return "".join(page(build_report(opened, inspect_image(opened.resolved, Store(None)))))


def test_hidden_files_are_grouped_and_the_rest_is_folded(tmp_path: Path) -> None:
    text = many_directories(tmp_path)
    before, _, folded = text.partition('<details class="more" data-noun="directory">')
    assert before.count('<details class="group"') == 10
    assert folded.count('<details class="group"') == 2
    assert "2 more directories" in folded
    assert text.count("Only the 20 largest of 30 files are listed.") == 12
    assert 'data-layers="0 1" data-sizes="45000 45000"' in text


def test_numbers_have_separators_and_layers_are_in_order(tmp_path: Path) -> None:
    text = many_directories(tmp_path)
    assert "360 entries" in text
    history = text.partition(">History</h2>")[2]
    assert [history.index(step) for step in ("first", "nothing", "second")] == sorted(
        history.index(step) for step in ("first", "nothing", "second")
    )
    layers = re.findall(r'<li data-layer-item="(\d)">', text)
    assert layers == ["0", "1", "2"]


def test_a_bar_has_two_pixels_at_least(tmp_path: Path) -> None:
    bars = re.findall(r'<rect class="c(\d)" x="0.00%" width="(2|[\d.]+%)"', many_directories(tmp_path))
    layers = bars[:6]
    assert [width for _, width in layers[::2]] == ["2", "2", "2"]
    assert layers[1] == ("0", "100.00%")
    assert 0 < float(layers[5][1].rstrip("%")) < 1


def test_it_says_nothing_of_the_cache(text: str) -> None:
    assert "cache" not in re.sub("<script.*?</script>|<style.*?</style>", "", text, flags=re.DOTALL).lower()


def test_tables_and_controls_have_names(text: str) -> None:
    found = _Elements(text)
    ids = {attributes.get("id") for _, attributes in found.elements}
    sections = [attributes for tag, attributes in found.elements if tag == "section"]
    assert all(attributes["aria-labelledby"] in ids for attributes in sections)
    assert all(attributes.get("scope") for tag, attributes in found.elements if tag == "th")
    assert ("label", {"for": "search"}) in found.elements
    headings = [tag for tag, _ in found.elements if re.fullmatch(r"h\d", tag)]
    assert headings[:3] == ["h1", "h2", "h2"]


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("chromium is missing")
    return found


def _dump(page_text: str, chromium: str, tmp_path: Path, *, done: str, options: Sequence[str] = ()) -> str:
    """Return the page as a browser has it once `done` is found in it, and fail on any error of its script."""
    (tmp_path / "page.html").write_text(page_text)
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/profile",
        "--enable-logging=stderr",
        "--window-size=900,900",
        "--virtual-time-budget=10000",  # so long the page may take, by its own clock
        *options,
        "--dump-dom",
        f"file://{tmp_path}/page.html",
    ]
    for _ in range(3):  # a browser on a busy machine may be asked before it has drawn anything
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "CONSOLE" not in ran.stderr  # no error of the script, nothing that the policy had to stop
        if re.search(done, ran.stdout):
            return ran.stdout
    raise AssertionError(f"the browser never got to {done}")


def test_a_browser_draws_the_map(text: str, chromium: str, tmp_path: Path) -> None:
    dom = _dump(text, chromium, tmp_path, done=r"<div [^>]*data-number=")
    boxes = re.findall(r'<div [^>]*data-number="\d+"[^>]*>([^<]*)', dom.partition('id="map"')[2])
    assert {"big/", "one", "two", "new"} <= set(boxes)
    assert any("&lt;script&gt;" in name for name in boxes)


_USE = """
<script>
const seen = {};
const text = (each) => each.textContent.trim();
const shown = (css) => [...document.querySelectorAll(css)].filter((each) => each.checkVisibility());
const wait = setInterval(() => {
  if (!document.querySelector("#map div")) return;
  clearInterval(wait);
  const search = document.getElementById("search");
  const type = (value) => { search.value = value; search.dispatchEvent(new Event("input")); };
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  document.querySelector("button.number[data-layer='1']").click();
  seen.filter = text(document.getElementById("filter"));
  seen.rows = shown("#map-section tbody tr td.path").map(text);
  seen.dim = shown("#map .dim").map(text);
  document.querySelector("button.number[data-layer='1']").click();
  seen.off = document.getElementById("filter").hidden;
  type("TWO");
  seen.found = shown("#found a").map(text);
  seen.hit = shown("#map .hit").map(text);
  type("");
  document.querySelector("[data-path='/big/two']").click();
  seen.opened = text(document.getElementById("path"));
  seen.marked = shown("#map .hit").map(text);
  document.querySelector("[data-path='/gone']").click();
  seen.told = text(document.getElementById("told"));
  document.title = JSON.stringify(seen);
}, 50);
</script>
"""


def test_a_browser_filters_searches_and_follows_links(text: str, chromium: str, tmp_path: Path) -> None:
    without_policy = re.sub(r"<meta http-equiv=[^>]*>", "", text)
    dom = _dump(without_policy.replace("</body>", f"{_USE}</body>"), chromium, tmp_path, done=r"<title>\{")
    found = re.search("<title>(.*?)</title>", dom)
    assert found
    seen = json.loads(html.unescape(found[1]))
    assert seen["filter"].startswith("Only layer 1")
    assert seen["rows"] == ["/new"]
    assert {"one", "two"} <= set(seen["dim"])
    assert "new" not in seen["dim"]
    assert seen["off"]
    assert seen["found"] == ["/big/two"]
    assert seen["hit"] == ["two"]
    assert seen["opened"] == "/big/"
    assert seen["marked"] == ["two"]
    assert seen["told"] == "/gone is not in the map: it was removed or is too small. This is /"


_LOOK = """<!DOCTYPE html><title>-</title>{frames}
<script>
const seen = [];
const channels = (colour) => {{ const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; }};
const over = (top, below, alpha) => [0, 1, 2].map((at) => top[at] * alpha + below[at] * (1 - alpha));
const light = (colour) => {{
  const linear = (part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
  const [r, g, b] = colour.map((part) => linear(part / 255));
  return .2126 * r + .7152 * g + .0722 * b;
}};
// Text and ground as they are drawn, the opacity of each element included.
function drawn(element, view) {{
  const chain = [];
  for (let each = element; each; each = each.parentElement) chain.unshift(each);
  let ground = [255, 255, 255], text = ground;
  for (const each of chain) {{
    const style = view.getComputedStyle(each), [r, g, b, a] = channels(style.backgroundColor);
    text = over(channels(style.color), ground, Number(style.opacity));
    ground = over([r, g, b], ground, a * Number(style.opacity));
  }}
  return [text, ground];
}}
function contrast(element, view) {{
  const [one, other] = drawn(element, view).map(light);
  return (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
}}
const wait = setInterval(() => {{
  const frames = [...document.querySelectorAll("iframe")];
  if (!frames.every((each) => each.contentDocument.querySelector("#map div"))) return;
  clearInterval(wait);
  for (const frame of frames) {{
    const page = frame.contentDocument, view = frame.contentWindow;
    page.querySelectorAll("details").forEach((each) => {{ each.open = true; }});
    const texts = [...page.body.querySelectorAll("*")].filter((each) => each.checkVisibility() && !each.closest("svg")
      && [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
    const area = (each) => each.offsetWidth * each.offsetHeight, map = page.getElementById("map");
    const boxes = [...map.querySelectorAll("div:not(.directory)")].map(area);
    seen.push({{
      width: view.innerWidth, wide: page.documentElement.scrollWidth,
      dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
      texts: texts.length, faint: texts.map((each) => [contrast(each, view), each])
        .filter(([ratio]) => ratio < 4.5).map(([ratio, each]) => [ratio, each.className, each.textContent]),
      badges: [...page.querySelectorAll("[data-layer]")].filter((each) => each.tagName !== "BUTTON").length,
      filled: boxes.reduce((sum, each) => sum + each, 0) / (map.clientWidth * map.clientHeight),
    }});
  }}
  document.title = JSON.stringify(seen);
}}, 50);
</script>"""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_each_size_and_colour_scheme_is_legible(scheme: str, chromium: str, tmp_path: Path) -> None:
    """The colours of the page are those of its browser, so each scheme takes a browser."""
    inner = html.escape(crowded(tmp_path), quote=True)
    frames = "".join(f'<iframe width="{width}" height="900" srcdoc="{inner}"></iframe>' for width in (1280, 390))
    options = [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"]
    dom = _dump(_LOOK.format(frames=frames), chromium, tmp_path, done=r"<title>\[", options=options)
    found = re.search("<title>(.*?)</title>", dom)
    assert found
    for seen in json.loads(html.unescape(found[1])):
        assert seen["dark"] == (scheme == "dark")
        assert seen["wide"] <= seen["width"]
        assert seen["texts"] > 50
        assert seen["faint"] == []
        assert seen["badges"] == 0  # each is a button
        assert seen["filled"] > 0.85


def crowded(tmp_path: Path) -> str:
    """Return the page of an image with a directory of many small files beside a large one, and long names."""
    small = [file(f"lib/gconv/{number:04}.so".encode(), bytes(200)) for number in range(2000)]
    long = file(b"/".join([b"long-name-" * 4] * 2), bytes(60_000))
    layers = [[file(b"big", bytes(900_000)), *small, long], [file(b".wh.big"), file(b"new", bytes(300_000))]]
    config: images.Json = {"config": {"Env": ["VALUE=" + "x" * 400]}, "history": [{"created_by": "RUN " + "y" * 300}]}
    image = images.Image(tuple(images.Layer(tar(members)) for members in layers), config=config)
    layout = images.write_layout(tmp_path / "crowded", image)
    with open_image(layout) as opened:
        return "".join(page(build_report(opened, inspect_image(opened.resolved, Store(None)))))
