"""A report on an image as one HTML page that asks nothing of anybody: no network, no other files.

All that is from the image is made printable, and escaped by Jinja or as JSON; beyond that the page's own policy (CSP)
lets no script and no style run but the two whose digests it names.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib.resources import files

import jinja2
import msgspec
from markupsafe import Markup

import ocifs
from ocifs.errors import printable
from ocifs.image.opening import Image
from ocifs.report.history import Step, build_history, shown_command
from ocifs.report.inspection import Inspection, facts
from ocifs.report.text import human_size
from ocifs.report.treemap import Treemap, treemap
from ocifs.report.waste import Waste, waste
from ocifs.spec.document import shown

MOST_NODES = 20_000
MOST_HIDDEN = 50
COLOURS = 12
"""How many colours of layers the style has."""


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
    """All that the page shows."""

    inspection: Inspection
    layers: list[Layer]
    steps: list[Step]
    treemap: Treemap
    waste: Waste


def build_report(image: Image, inspection: Inspection) -> Report:
    """Return what the page of an image shows."""
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
        inspection=inspection, layers=layers, steps=steps, treemap=treemap(image.rootfs, MOST_NODES), waste=waste(image)
    )


def page(report: Report) -> Iterator[str]:
    """Give the page piece by piece."""
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
        version=ocifs.__version__,
        style=Markup(style),  # noqa: S704 # our own files
        script=Markup(script),  # noqa: S704
        style_digest=_digest(style),
        script_digest=_digest(script),
        data=_json(report.treemap, report.layers),
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(tree: Treemap, layers: Sequence[Layer]) -> Markup:
    """Return what the script reads, as JSON that cannot end the element it is in."""
    text = msgspec.json.encode({"tree": tree, "layers": len(layers), "colours": COLOURS}).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 # it holds no character that means anything to HTML
