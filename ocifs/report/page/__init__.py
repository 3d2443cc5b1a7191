"""An HTML report on an image as one self-contained page: no network, no other files.

All text from the image is made printable, and escaped by Jinja or as JSON. In addition the page's content security
policy allows only the one script and the one style whose digests it names.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib.resources import files

import jinja2
import msgspec
from markupsafe import Markup

from ocifs.errors import printable
from ocifs.image.opening import Image
from ocifs.report.history import Step, build_history, shown_command
from ocifs.report.inspection import Inspection, facts
from ocifs.report.text import human_size
from ocifs.report.treemap import Treemap, treemap
from ocifs.report.waste import Waste, waste
from ocifs.spec.document import shown
from ocifs.version import __version__

MOST_NODES = 20_000
MOST_HIDDEN = 50
COLOURS = 12
"""Number of layer colours in the style sheet."""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer, as the page shows it."""

    number: int
    digest: str
    stored: int
    size: int
    """Bytes of the tar stream."""
    entries: int
    created_by: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page shows."""

    inspection: Inspection
    layers: list[Layer]
    steps: list[Step]
    treemap: Treemap
    waste: Waste


def build_report(image: Image, inspection: Inspection, most_nodes: int = MOST_NODES) -> Report:
    """Return the content of the page for an image, with up to `most_nodes` files and directories in its map."""
    steps = build_history(image.resolved)
    commands = {step.layer: shown_command(step) for step in steps}
    layers = [
        Layer(
            number=number,
            digest=str(layer.descriptor.digest),
            stored=layer.descriptor.size,
            size=index.size,
            entries=index.summary.entries,
            created_by=commands[number],
        )
        for number, (layer, index) in enumerate(zip(image.resolved.layers, image.indexes, strict=True))
    ]
    return Report(
        inspection=inspection, layers=layers, steps=steps, treemap=treemap(image.rootfs, most_nodes), waste=waste(image)
    )


def page(report: Report) -> Iterator[str]:
    """Yield the page in pieces."""
    folder = files(__name__)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": human_size, "printable": printable, "shown": shown, "command": shown_command}
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    style = (folder / "page.css").read_text("utf-8")
    script = (folder / "page.js").read_text("utf-8")
    return template.generate(
        report=report,
        image=report.inspection,
        hidden=report.waste.hidden[:MOST_HIDDEN],
        facts=facts(report.inspection),
        largest=max((layer.size for layer in report.layers), default=0) or 1,
        colours=COLOURS,
        version=__version__,
        style=Markup(style),  # noqa: S704 # our own files
        script=Markup(script),  # noqa: S704
        style_digest=_digest(style),
        script_digest=_digest(script),
        data=_json(report.treemap, report.layers),
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(tree: Treemap, layers: Sequence[Layer]) -> Markup:
    """Return the script's input as JSON that cannot end its HTML element."""
    text = msgspec.json.encode({"tree": tree, "layers": len(layers), "colours": COLOURS}).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 # it holds no character that means anything to HTML
