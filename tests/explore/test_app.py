"""The screen, driven by its keys."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from ocifs.cli.explore import copy_out
from ocifs.explore.app import Copy, Explorer
from ocifs.explore.layers import LayersPane
from ocifs.explore.outline import Row
from ocifs.explore.peek import Peek
from ocifs.explore.screens import Destination, Help, Preview
from ocifs.explore.tree import TreePane
from ocifs.explore.waste import WastePane
from ocifs.image.opening import Image, open_image
from ocifs.image.rootfs import Rootfs
from tests import images
from tests.explore.conftest import HOSTILE, LAYERS
from tests.tars import tar

_SIZE = (80, 24)


class Screen:
    """What is on the screen of an image, once it has settled."""

    def __init__(self, app: Explorer, pilot: Pilot[None]) -> None:
        self.app = app
        self._pilot = pilot

    async def settle(self) -> None:
        await self._pilot.pause()
        await self.app.workers.wait_for_complete()
        await self._pilot.pause()

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self._pilot.press(key)
            await self.settle()

    async def find(self, text: str) -> None:
        await self.press("ctrl+f", *text)
        await self._pilot.pause(0.4)
        await self.settle()

    @property
    def lines(self) -> list[str]:
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip) for strip in strips]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def over(self) -> type:
        """What lies over the panes."""
        return type(self.app.screen)

    @property
    def told(self) -> list[str]:
        """Messages that come and go."""
        return [notification.message for notification in self.app._notifications]

    @property
    def tree(self) -> TreePane:
        return self.app.query_one(TreePane)

    @property
    def files(self) -> dict[str, str]:
        """What is shown of each path, and how it changed."""
        rows = [row for row in self.tree.outline.rows if isinstance(row, Row)]
        return {row.path.decode(errors="replace"): row.entry.change for row in rows}

    async def go_to(self, path: str) -> None:
        self.tree.move(self.tree.outline.index(path.encode()))
        await self.settle()


def refuse_copies(rootfs: Rootfs, path: str, destination: str) -> list[str]:
    raise AssertionError("nothing asked for a copy")


def on_screen(
    image: Image,
    use: Callable[[Screen], Awaitable[None]],
    size: tuple[int, int] = _SIZE,
    copy: Copy = refuse_copies,
) -> None:
    async def run() -> None:
        app = Explorer(image, copy)
        async with app.run_test(size=size) as pilot:
            screen = Screen(app, pilot)
            await screen.settle()
            await use(screen)

    asyncio.run(run())


def test_the_first_screen(image: Image) -> None:
    async def use(screen: Screen) -> None:
        assert "layout  sha256:" in screen.lines[0]
        assert "Files as of layer 2, its changes" in screen.lines[1]
        assert "ADD file" in screen.lines[2]
        assert "COPY top" in screen.lines[4]
        assert screen.files["top"] == "added"
        assert screen.files["etc"] == "unchanged"
        assert "Find" in screen.lines[-1]
        assert all(len(line) == 80 for line in screen.lines)

    on_screen(image, use)


@pytest.mark.parametrize("size", [(200, 60), (20, 4)])
def test_screens_of_any_size(image: Image, size: tuple[int, int]) -> None:
    async def use(screen: Screen) -> None:
        await screen.press("down", "enter", "ctrl+b", "tab", "up", "question_mark")

    on_screen(image, use, size)


def test_nothing_of_an_image_speaks_to_the_terminal(image: Image) -> None:
    async def use(screen: Screen) -> None:
        assert "[red]\\x1b[31m\\n\\xff" in screen.text
        await screen.press("tab", "up")
        assert "RUN [bold]change" in screen.text
        assert "\x1b" not in screen.text
        await screen.press("tab", "home", "enter")
        assert "\\x1b[2Jcleared" in screen.text
        assert "\x1b" not in screen.text

    on_screen(image, use)


def test_another_layer_is_another_tree(image: Image) -> None:
    async def use(screen: Screen) -> None:
        await screen.press("down", "down", "right")
        await screen.press("tab", "up")
        assert "Files as of layer 1, its changes" in screen.text
        assert "top" not in screen.files
        assert screen.files["etc/issue"] == "changed"
        assert screen.files["etc/old"] == "removed"
        assert screen.files["etc/new"] == "added"
        await screen.press("up")
        assert set(screen.files.values()) == {"unchanged"}
        await screen.press("down", "down", "ctrl+a")
        assert "Files as of layer 2, all changes" in screen.text
        assert screen.files["etc/old"] == "removed"
        assert screen.files["top"] == "added"
        await screen.press("ctrl+l")
        assert "etc/old" not in screen.files

    on_screen(image, use)


def test_marks_and_sizes(image: Image) -> None:
    async def use(screen: Screen) -> None:
        await screen.press("tab", "up", "tab", "down", "down", "right")
        rows = [line[28:] for line in screen.lines]
        assert any("~     11 B " in row and "▾ etc" in row for row in rows)
        assert any("-      3 B " in row and "old" in row for row in rows)
        assert any("+      4 B " in row and "▸ new" in row for row in rows)
        assert "135 B" in screen.text  # of the files that are still there

    on_screen(image, use)


@pytest.mark.parametrize(
    ("key", "gone"), [("a", "etc/new"), ("ctrl+r", "etc/old"), ("m", "etc/issue"), ("ctrl+u", "bin")]
)
def test_kinds_of_changes_are_left_out_and_shown_again(image: Image, key: str, gone: str) -> None:
    async def use(screen: Screen) -> None:
        await screen.press("tab", "up", "tab", "down", "down", "right")
        before = screen.files
        await screen.press(key)
        assert before.keys() - screen.files.keys() == {
            gone,
            *(["link", HOSTILE.decode(errors="replace")] * (gone == "bin")),
        }
        assert "without" in screen.text
        await screen.press(key)
        assert screen.files == before

    on_screen(image, use)


def test_keys_of_the_tree(image: Image) -> None:
    async def use(screen: Screen) -> None:
        await screen.go_to("etc")
        await screen.press("right", "right")
        assert screen.tree.current is not None
        assert screen.tree.current.path == b"etc/issue"
        await screen.press("left")
        assert screen.tree.current.path == b"etc"
        await screen.press("left")
        assert "etc/issue" not in screen.files
        await screen.press("space")
        assert "etc/issue" in screen.files
        await screen.press("end", "home", "pagedown", "pageup")
        await screen.press("ctrl+@")
        assert "etc/issue" not in screen.files
        await screen.press("ctrl+b")
        assert "-rw-r--r--" in screen.text

    on_screen(image, use)


def test_search(image: Image) -> None:
    async def use(screen: Screen) -> None:
        await screen.find("dee.$")
        assert list(screen.files) == ["etc", "etc/new", "etc/new/deep"]
        assert "1 found" in screen.text
        await screen.press("enter")
        assert screen.app.focused is screen.tree
        assert screen.tree.current is not None
        assert screen.tree.current.path == b"etc/new/deep"
        await screen.press("escape")
        assert "bin" in screen.files
        await screen.find("(")
        assert "invalid: missing ), unterminated subpattern" in screen.text
        await screen.press("escape")
        await screen.find("nowhere")
        assert screen.files == {}
        await screen.press("enter", "enter", "down", "left", "space", "tab", "up")
        assert "0 found" in screen.text

    on_screen(image, use)


def test_a_file_as_text_and_hex(image: Image) -> None:
    async def use(screen: Screen) -> None:
        await screen.press("tab", "up", "tab")
        await screen.go_to("etc")
        await screen.press("right", "right", "enter")
        assert screen.over is Preview
        assert "middle" in screen.text
        await screen.press("x")
        assert "6d 69 64 64 6c 65 0a" in screen.text
        await screen.press("tab", "escape", "down", "down")
        await screen.press("enter")  # one that was removed
        assert "old" in screen.lines[1]
        await screen.press("escape")
        await screen.go_to("bin")
        await screen.press("right", "right", "enter")
        assert "7f 45 4c 46 00" in screen.text
        await screen.press("escape")
        await screen.go_to("link")
        await screen.press("enter")
        assert screen.over is not Preview
        assert "link is not a regular file" in screen.told

    on_screen(image, use)


def test_help_and_quit(image: Image) -> None:
    async def use(screen: Screen) -> None:
        await screen.press("question_mark")
        assert screen.over is Help
        assert "regular expression" in screen.text
        assert "Marks: + added" in screen.text  # the last line
        await screen.press("escape")
        assert screen.over is not Help
        await screen.press("question_mark")
        await screen._pilot.press("ctrl+c")
        assert not screen.app.is_running or screen.app._exit

    on_screen(image, use)


def test_the_mouse(image: Image) -> None:
    async def use(screen: Screen) -> None:
        await screen._pilot.click(LayersPane, offset=(3, 2))
        await screen.settle()
        assert "Files as of layer 1" in screen.text

    on_screen(image, use)


def test_an_image_without_layers(tmp_path: Path) -> None:
    async def use(screen: Screen) -> None:
        await screen.press("enter", "right", "left", "end", "tab", "down", "ctrl+a", "ctrl+f", "x", "escape")
        assert screen.files == {}

    with open_image(images.write_layout(tmp_path / "empty", images.Image(()))) as image:
        on_screen(image, use)


def test_a_blob_that_has_changed_is_told(tmp_path: Path) -> None:
    layout = images.write_layout(tmp_path / "image", images.Image((images.Layer(tar(LAYERS[0]), "tar"),)))

    async def use(screen: Screen) -> None:
        largest = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        with largest.open("r+b") as blob:
            blob.seek(1500)
            blob.write(b"changed")
        await screen.go_to("etc")
        await screen.press("right", "right", "enter")
        assert screen.over is not Preview
        assert any("sha256:" in message for message in screen.told)

    with open_image(layout) as image:
        on_screen(image, use)


def test_hidden_bytes_by_directory(image: Image) -> None:
    async def use(screen: Screen) -> None:
        await screen.press("w")
        assert "8 B hidden, " in screen.text
        assert "dive: " in screen.text
        assert "▸ /etc" in screen.text
        assert "2 files" in screen.text
        await screen.press("enter", "down")
        assert "L0 → L1" in screen.text
        assert "stored by layer 0," in screen.text
        await screen.press("enter")
        assert screen.over is Preview
        assert "base" in screen.text  # what the base has, although layer 1 replaces it
        await screen.press("escape", "left")
        assert "▸ /etc" in screen.text
        await screen.press("tab", "tab")
        assert isinstance(screen.app.focused, WastePane)
        await screen.press("escape")
        assert "Files as of layer 2" in screen.text
        await screen.press("w", "slash")
        assert "Files as of layer 2" in screen.text

    on_screen(image, use)


def test_nothing_hidden_is_told(tmp_path: Path) -> None:
    async def use(screen: Screen) -> None:
        await screen.press("w", "enter", "e")
        assert "0 B hidden" in screen.text
        assert "No layer hides" in screen.text

    with open_image(images.write_layout(tmp_path / "one", images.Image((images.Layer(),)))) as image:
        on_screen(image, use)


def test_the_largest_first(image: Image) -> None:
    async def use(screen: Screen) -> None:
        await screen.press("s")
        assert [*screen.files] == ["bin", HOSTILE.decode(errors="replace"), "etc", "link", "top"]
        assert ", by size" in screen.text
        await screen.go_to("etc")
        await screen.press("right")
        assert [*screen.files][2:5] == ["etc", "etc/issue", "etc/new"]
        await screen.press("s")
        assert [*screen.files][1:3] == ["bin", "etc"]

    on_screen(image, use)


def test_matches_stand_out(image: Image) -> None:
    async def use(screen: Screen) -> None:
        await screen.find("is*u|c/n")
        assert [*screen.files] == ["etc", "etc/issue", "etc/new", "etc/new/deep"]
        matched = {
            row.path: "|".join(text for text, names in screen.tree.parts(index, 60) if "tree--match" in names)
            for index, row in enumerate(screen.tree.outline.rows)
            if isinstance(row, Row)
        }
        assert matched == {b"etc": "", b"etc/issue": "issu", b"etc/new": "n", b"etc/new/deep": ""}

    on_screen(image, use)


def test_files_are_copied_out(image: Image, tmp_path: Path) -> None:
    there = tmp_path / "there"

    async def to(screen: Screen, place: Path) -> None:
        await screen.press("e")
        assert screen.over is Destination
        screen.app.screen.query_one(Input).value = str(place)
        await screen.press("enter")

    async def use(screen: Screen) -> None:
        await screen.go_to("top")
        await to(screen, there)
        assert there.read_bytes() == b"top\n"
        assert any(message.startswith("copied /top to ") for message in screen.told)
        there.write_bytes(b"mine")
        await to(screen, there)
        assert "exists: Enter again replaces it" in screen.text
        assert there.read_bytes() == b"mine"
        await screen.press("enter")
        assert there.read_bytes() == b"top\n"
        await to(screen, tmp_path / "missing" / "there")
        assert any("cannot copy /top" in message for message in screen.told)
        await screen.go_to("etc")
        await to(screen, tmp_path / "directory")
        assert (tmp_path / "directory/issue").read_bytes() == b"middle\n"
        assert not (tmp_path / "directory/old").exists()
        await screen.go_to("link")
        await screen.press("e")
        assert "link is not a regular file or directory" in screen.told
        await screen.go_to(HOSTILE.decode("latin-1"))
        await screen.press("home", "e")
        field = screen.app.screen.query_one(Input)
        assert field.value == "./"  # a name that cannot be shown is not proposed
        field.value = str(tmp_path)
        await screen.press("enter", "enter")
        assert "name the copy in it" in screen.text
        field.value = str(tmp_path / "hostile")
        await screen.press("enter")
        assert (tmp_path / "hostile").read_bytes() == b"\x1b[2Jcleared"
        await screen.go_to("bin")
        await screen.press("right")
        await screen.go_to("bin/tool")
        await to(screen, tmp_path)
        assert screen.app.screen.query_one(Input).value == f"{tmp_path}/tool"
        assert not (tmp_path / "tool").exists()
        await screen.press("enter")
        assert (tmp_path / "tool").read_bytes().startswith(b"\x7fELF")
        await screen.press("tab", "up", "tab")
        await screen.go_to("etc")
        await screen.press("right")
        await screen.go_to("etc/old")
        await to(screen, tmp_path / "removed")
        assert (tmp_path / "removed").read_bytes() == b"old"

    on_screen(image, use, copy=copy_out)


@pytest.mark.parametrize(("width", "shown"), [(159, False), (160, True)])
def test_a_wide_screen_has_a_preview_beside_the_tree(image: Image, width: int, shown: bool) -> None:
    async def use(screen: Screen) -> None:
        peek = screen.app.query_one(Peek)
        assert peek.display == shown
        await screen.go_to("top")
        await screen._pilot.pause(0.2)
        await screen.settle()
        assert (list(peek.lines) == ["top"]) == shown
        await screen.go_to("etc")
        await screen._pilot.pause(0.2)
        assert (list(peek.lines) == ["directory"]) == shown
        await screen.press("tab", "tab", "tab")
        assert isinstance(screen.app.focused, TreePane) == shown

    on_screen(image, use, (width, 40))


def test_layers_have_room_on_a_small_screen(image: Image) -> None:
    async def use(screen: Screen) -> None:
        layers, tree = screen.app.query_one(LayersPane), screen.tree
        assert tree.size.width > layers.size.width
        assert "Show/hide" in screen.lines[-1]
        assert "Quit" in screen.lines[-1]
        await screen.press("tab")
        assert layers.size.width > tree.size.width
        assert layers.size.height >= 13

    on_screen(image, use)
