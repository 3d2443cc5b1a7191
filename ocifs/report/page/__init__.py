"""An HTML report on an image as one self-contained page: no network, no other files.

All text from the image is made printable, and escaped by Jinja or as JSON. In addition the page's content security
policy allows only the one script and the one style whose digests it names.
"""

import base64
import hashlib
from collections.abc import Iterator
from importlib.resources import files

import jinja2
import msgspec
from markupsafe import Markup

from ocifs.errors import printable
from ocifs.image.opening import Image
from ocifs.report.history import Step, build_history, shown_command
from ocifs.report.inspection import Inspection, facts
from ocifs.report.text import human_size
from ocifs.report.treemap import Files, Treemap, largest_files, treemap
from ocifs.report.waste import Waste, waste
from ocifs.report.waste_directories import HiddenDirectory, by_directory
from ocifs.spec.document import shown
from ocifs.version import __version__

MOST_NODES = 20_000
TOP_DIRECTORIES = 10
"""Directories with hidden files that are visible at first; the others are folded."""
MOST_HIDDEN = 20
"""Hidden files listed in a directory."""
MOST_BADGES = 6
"""Layers named beside a directory."""
MOST_LARGE = 40
TOP_LARGE = 10
COLOURS = 12
"""Number of layer colours in the style sheet."""


class PageLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer, as the page shows it."""

    number: int
    digest: str
    stored: int
    size: int
    """Bytes of the tar stream."""
    hidden: int
    """Bytes of its files that later layers hide."""
    entries: int
    created_by: str


class ImageReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page shows."""

    inspection: Inspection
    layers: list[PageLayer]
    steps: list[Step]
    treemap: Treemap
    files: Files
    waste: Waste
    hidden: list[HiddenDirectory]


def build_report(image: Image, inspection: Inspection, most_nodes: int = MOST_NODES) -> ImageReport:
    """Return the content of the page for an image, with up to `most_nodes` files and directories in its map."""
    steps = build_history(image.resolved)
    found = waste(image)
    commands = {step.layer: shown_command(step) for step in steps}
    layers = [
        PageLayer(
            number=number,
            digest=str(layer.descriptor.digest),
            stored=layer.descriptor.size,
            size=index.size,
            hidden=found.layers[number].hidden,
            entries=index.summary.entries,
            created_by=commands[number],
        )
        for number, (layer, index) in enumerate(zip(image.resolved.layers, image.indexes, strict=True))
    ]
    return ImageReport(
        inspection=inspection,
        layers=layers,
        steps=steps,
        treemap=treemap(image.rootfs, most_nodes),
        files=largest_files(image.rootfs, MOST_LARGE),
        waste=found,
        hidden=by_directory(found.hidden),
    )


def page(report: ImageReport) -> Iterator[str]:
    """Yield the page in pieces."""
    folder = files(__name__)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "size": human_size,
        "count": "{:,}".format,
        "percent": _percent,
        "printable": printable,
        "shown": shown,
        "command": shown_command,
    }
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    style = (folder / "page.css").read_text("utf-8")
    script = (folder / "page.js").read_text("utf-8")
    return template.generate(
        report=report,
        image=report.inspection,
        largest=max((layer.size for layer in report.layers), default=0) or 1,
        facts=facts(report.inspection),
        top_directories=TOP_DIRECTORIES,
        most_hidden=MOST_HIDDEN,
        most_badges=MOST_BADGES,
        top_large=TOP_LARGE,
        colours=COLOURS,
        version=__version__,
        style=Markup(style),  # noqa: S704 # our own files
        script=Markup(script),  # noqa: S704
        style_digest=_digest(style),
        script_digest=_digest(script),
        data=_json(report.treemap),
    )


def _percent(part: int, whole: int) -> str:
    """Return a share with one decimal, never 0 for a part that is not."""
    share = part / (whole or 1)
    return "under 0.1%" if 0 < share < 0.001 else f"{share:.1%}"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(tree: Treemap) -> Markup:
    """Return the script's input as JSON that cannot end its HTML element."""
    text = msgspec.json.encode({"tree": tree, "colours": COLOURS}).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 # it holds no character that means anything to HTML
