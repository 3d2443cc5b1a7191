"""A widget of many lines with a cursor that renders only the visible lines."""

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

_BLOCKS = " ▏▎▍▌▋▊▉█"

_NARROWEST_BAR, _WIDEST_BAR = 4, 60

StyledText = tuple[str, str]
"""A piece of a line: the text, and the component classes that style it, separated by blanks."""


class Lines(ScrollView, can_focus=True):
    """The widget; a subclass implements the number of lines and the content of one line."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--cursor"}
    DEFAULT_CSS = """
    Lines { overflow-x: hidden; scrollbar-size-vertical: 1; }
    Lines .lines--cursor { background: $panel; }
    Lines:focus .lines--cursor { background: $primary; color: $text; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "go(-1)", "Up", show=False),
        Binding("down,j", "go(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "top", "First", show=False),
        Binding("end,G", "bottom", "Last", show=False),
    ]

    class Moved(Message):
        """The cursor has moved to another line, or the lines under it have changed."""

        def __init__(self, lines: "Lines") -> None:
            super().__init__()
            self.lines = lines

        @property
        def control(self) -> "Lines":
            """The widget that sent the message."""
            return self.lines

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 # as all widgets have it
        super().__init__(id=id)
        self.cursor = 0

    def count(self) -> int:
        """Return the number of lines."""
        raise NotImplementedError

    def parts(self, index: int, width: int) -> list[StyledText]:
        """Return one line, for a width in columns."""
        raise NotImplementedError

    def recount(self, cursor: int | None = None) -> None:
        """Refresh after the lines have changed."""
        self.virtual_size = Size(0, self.count())
        self.move(self.cursor if cursor is None else cursor)
        self.refresh()

    def move(self, index: int) -> None:
        """Move the cursor to a line, or to the nearest existing one."""
        self.cursor = max(0, min(index, self.count() - 1))
        self.scroll_to_region(Region(0, self.cursor, 1, 1), animate=False, force=True)
        self.refresh()
        self.post_message(self.Moved(self))

    def render_line(self, y: int) -> Strip:
        """Render one line of the screen."""
        width = self.scrollable_content_region.width
        index = self.scroll_offset.y + y
        if index >= self.count():
            return Strip.blank(width, self.rich_style)
        at_cursor = ["lines--cursor"] if index == self.cursor else []
        segments = [
            Segment(text, self.rich_style + self.get_component_rich_style(*names.split(), *at_cursor, partial=True))
            for text, names in self.parts(index, width)
        ]
        rest = self.rich_style + self.get_component_rich_style(*at_cursor, partial=True)
        return Strip(segments).adjust_cell_length(width, rest).crop(0, width)

    def action_go(self, lines: int) -> None:
        """Move the cursor by lines."""
        self.move(self.cursor + lines)

    def action_page(self, pages: int) -> None:
        """Move the cursor by pages."""
        self.move(self.cursor + pages * max(1, self.size.height - 1))

    def action_top(self) -> None:
        """Move to the first line."""
        self.move(0)

    def action_bottom(self) -> None:
        """Move to the last line."""
        self.move(self.count() - 1)

    def on_click(self, event: Click) -> None:
        """Move the cursor to the mouse."""
        self.move(self.scroll_offset.y + event.get_content_offset_capture(self).y)


def bar_width(room: int, text: int) -> int:
    """Return the columns of bars in `room`: what texts of up to `text` columns leave, but at least a quarter."""
    return max(_NARROWEST_BAR, room // 4, min(_WIDEST_BAR, room - text))


def bar(part: float, width: int) -> str:
    """Return a bar of `width` columns, filled to a fraction from 0 to 1."""
    eighths = round(max(0.0, min(part, 1.0)) * width * 8)
    full, left = divmod(eighths, 8)
    return set_cell_size("█" * full + (_BLOCKS[left] if left else ""), width)


def cut(text: str, width: int) -> str:
    """Return the text cut to a number of columns, with an ellipsis if it is too long."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + "…"


def cut_parts(parts: Sequence[StyledText], width: int) -> list[StyledText]:
    """Return parts cut to a number of columns, with an ellipsis if they are too long."""
    if sum(cell_len(text) for text, _ in parts) <= width:
        return list(parts)
    kept: list[StyledText] = []
    for text, names in parts:
        if cell_len(text) >= width:
            return [*kept, (cut(text + " ", width), names)] if width > 0 else kept
        kept.append((text, names))
        width -= cell_len(text)
    return kept
