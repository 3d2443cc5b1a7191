"""The layer pane: size and origin of each layer. The cursor selects the layer to show."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from rich.cells import cell_len
from textual.binding import Binding, BindingType

from ocifs.explore.lines import Lines, StyledText, bar, bar_width, cut
from ocifs.image.opening import Image
from ocifs.report.history import build_history, shown_command
from ocifs.report.text import human_size


class LayerLine(NamedTuple):
    """A layer."""

    number: int
    digest: str
    stored: int
    """Bytes of the blob."""
    size: int
    """Bytes of the tar stream."""
    created: str
    created_by: str


def layer_lines(image: Image) -> list[LayerLine]:
    """Return the layers of an image, the base first."""
    return [
        LayerLine(
            step.layer,
            str(step.digest),
            step.size or 0,
            image.indexes[step.layer].size,
            step.created,
            shown_command(step),
        )
        for step in build_history(image.resolved)
        if step.layer is not None
    ]


class LayersPane(Lines):
    """The layer pane."""

    DEFAULT_CSS = """
    LayersPane .layers--size { color: $foreground-darken-3; }
    LayersPane .layers--bar { color: $primary; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"layers--size", "layers--bar"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+l", "app.aggregate(False)", "Layer changes"),
        Binding("ctrl+a", "app.aggregate(True)", "All changes"),
    ]

    def __init__(self, layers: Sequence[LayerLine], *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.lines = layers
        self.cursor = max(0, len(layers) - 1)
        self._largest = max((layer.size for layer in layers), default=0) or 1
        self._longest = max((cell_len(layer.created_by) for layer in layers), default=0)

    def count(self) -> int:
        """Return the number of layers."""
        return len(self.lines)

    def parts(self, index: int, width: int) -> list[StyledText]:
        """Return the line of a layer."""
        layer = self.lines[index]
        digits = len(str(len(self.lines) - 1))
        begin = f" {layer.number:>{digits}} "
        size = f"{human_size(layer.size):>8} "
        room = width - len(begin) - len(size) - 1
        columns = bar_width(room, self._longest)
        return [
            (begin, ""),
            (size, "layers--size"),
            (bar(layer.size / self._largest, columns) + " ", "layers--bar"),
            (cut(layer.created_by, max(0, room - columns)), ""),
        ]
