"""The lines in which text files of two trees differ. Files of more than 1 MiB are not read for this."""

import stat
from collections.abc import Iterator

from msgspec.structs import replace

from ocifs.image.rootfs import Rootfs
from ocifs.report.difference import Difference
from ocifs.report.listing import Listed, Show
from ocifs.report.textdiff import MAX_SIZE, Comparison, equal_texts, is_text, unified_diff


class Texts:
    """The contents of two trees."""

    def __init__(self, before: Rootfs, after: Rootfs, how: Comparison, *, as_text: bool = False) -> None:
        """With `as_text`, all regular files are text."""
        self._trees = (before, after)
        self._how = how
        self._as_text = as_text

    def without_ignored(self, difference: Difference) -> Difference | None:
        """Return the difference without those of ignored parts of lines, in content and size; None if none is left.

        Raises the errors of `Rootfs.read`.
        """
        texts = self._texts(difference) if "content" in difference.aspects else None
        if texts is None or not equal_texts(*texts, self._how):
            return difference
        aspects = tuple(aspect for aspect in difference.aspects if aspect not in {"content", "size"})
        return replace(difference, aspects=aspects) if aspects else None

    def diff(self, difference: Difference, show: Show, show_line: Show) -> Iterator[bytes]:
        """Yield the differing lines of a regular file that is text in both trees, or absent in one."""
        sides = (difference.before, difference.after)
        if not all(entry is None or stat.S_ISREG(entry.inode.mode) for entry in sides):
            return
        if all(sides) and "content" not in difference.aspects:
            return
        if any(map(_is_large, sides)):
            yield b"Files of more than 1 MiB are not compared line by line"
            return
        texts = self._texts(difference)
        if texts is None:
            return
        path = difference.path.lstrip(b"/")
        names = [
            b"/dev/null" if entry is None else show(side + path)
            for side, entry in zip((b"a/", b"b/"), sides, strict=True)
        ]
        yield from map(show_line, unified_diff(*texts, (names[0], names[1]), self._how))

    def _texts(self, difference: Difference) -> tuple[bytes, bytes] | None:
        """Return the texts of both sides; None if one is not text, or too large."""
        sides = (difference.before, difference.after)
        if any(entry is not None and not stat.S_ISREG(entry.inode.mode) for entry in sides) or any(
            map(_is_large, sides)
        ):
            return None
        before, after = (
            b"" if entry is None else tree.read(entry.inode.nid, entry.inode.size, 0)
            for tree, entry in zip(self._trees, sides, strict=True)
        )
        return (before, after) if self._as_text or (is_text(before) and is_text(after)) else None


def _is_large(entry: Listed | None) -> bool:
    return entry is not None and entry.inode.size > MAX_SIZE
