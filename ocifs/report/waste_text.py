"""Render the waste of an image as tables and JSON, and apply the limits of a build."""

from collections.abc import Iterator, Sequence

import msgspec

from ocifs.report.efficiency import Efficiency
from ocifs.report.listing import Show, named
from ocifs.report.text import NARROWEST, elided, human_size, table
from ocifs.report.waste import Duplicates, LayerWaste, Waste

_NAMES = 4
"""Number of names printed for a group of equal files."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Limits for a build, those of dive(1) and one for hidden bytes; None: no limit."""

    lowest_efficiency: float | None = None
    highest_wasted_bytes: int | None = None
    highest_user_wasted: float | None = None
    """As a fraction of 1."""
    highest_hidden_bytes: int | None = None


def broken_rules(rules: Rules, found: Efficiency, hidden: int = 0) -> list[str]:
    """Return the violated limits, each as a sentence; `hidden` are the bytes hidden in all layers."""
    broken = []
    if rules.highest_hidden_bytes is not None and hidden > rules.highest_hidden_bytes:
        broken.append(f"{hidden} hidden bytes are more than {rules.highest_hidden_bytes}")
    if rules.lowest_efficiency is not None and found.score < rules.lowest_efficiency:
        broken.append(f"the efficiency {found.score:.4f} is below {rules.lowest_efficiency}")
    if rules.highest_wasted_bytes is not None and found.wasted_bytes > rules.highest_wasted_bytes:
        broken.append(f"{found.wasted_bytes} wasted bytes are more than {rules.highest_wasted_bytes}")
    if rules.highest_user_wasted is not None and found.user_wasted > rules.highest_user_wasted:
        broken.append(f"the wasted part {found.user_wasted:.4f} of user bytes is more than {rules.highest_user_wasted}")
    return broken


def waste_lines(
    found: Waste, same: Sequence[Duplicates] | None, count: int, show: Show, width: int | None = None
) -> Iterator[bytes]:
    """Yield the tables, with at most `count` files of each kind; paths are cut so that a line has `width` columns."""
    share = found.hidden_bytes / found.stored_bytes if found.stored_bytes else 0.0
    stored = f"{share:.1%} of the {human_size(found.stored_bytes)} in the layers"
    yield f"{human_size(found.hidden_bytes)} hidden, {stored}: later layers replace or remove these files".encode()
    yield b""
    yield from _layer_lines(found.layers)
    yield b""
    score = found.efficiency
    yield f"as dive counts: efficiency {score.score:.4f}, {human_size(score.wasted_bytes)} wasted, ".encode() + (
        f"{score.user_wasted:.2%} of user bytes".encode()
    )
    yield b"  (all copies of a path in several layers, the visible one too; no directory removed as a whole)"
    if found.hidden:
        yield b""
        yield b"   HIDDEN  LAYER  BY"
        for each in found.hidden[:count]:
            line = f"{human_size(each.size):>9}  {each.layer:>5}  {each.how} by {each.by}  "
            yield line.encode() + _cut(show(each.path), width, len(line))
        yield from _left(len(found.hidden) - count, sum(each.size for each in found.hidden[count:]))
    if same is not None:
        yield b""
        yield b"DUPLICATE  FILES"
        for group in same[:count]:
            names = list(map(show, group.paths[:_NAMES]))
            if len(group.paths) > _NAMES:
                names.append(f"and {len(group.paths) - _NAMES} more".encode())
            line = f"{human_size(group.wasted):>9}  "
            yield line.encode() + _cut(b"  ".join(names), width, len(line))
        yield from _left(len(same) - count, sum(group.wasted for group in same[count:]))


def _cut(shown: bytes, width: int | None, before: int) -> bytes:
    """Return printable text cut in the middle, to what `before` columns leave of the width."""
    return shown if width is None else elided(shown.decode(), max(NARROWEST, width - before)).encode()


def _layer_lines(layers: Sequence[LayerWaste]) -> Iterator[bytes]:
    total = LayerWaste(-1, "", sum(each.stored for each in layers), sum(each.hidden for each in layers))
    rows = [("LAYER", "DIGEST", "STORED", "HIDDEN")] + [
        ("" if each.layer < 0 else str(each.layer), each.digest[:19], human_size(each.stored), human_size(each.hidden))
        for each in (*layers, total)
    ]
    yield from map(str.encode, table(rows, right=(0, 2, 3)))


def _left(number: int, size: int) -> Iterator[bytes]:
    if number > 0:
        yield f"{human_size(size):>9}  in {number} more".encode()


def to_json(found: Waste, same: Sequence[Duplicates] | None, count: int, broken: Sequence[str]) -> bytes:
    """Return one JSON object."""
    fields: dict[str, object] = {
        "hidden_bytes": found.hidden_bytes,
        "stored_bytes": found.stored_bytes,
        "efficiency": found.efficiency.score,
        "wasted_bytes": found.efficiency.wasted_bytes,
        "user_bytes": found.efficiency.user_bytes,
        "user_wasted": found.efficiency.user_wasted,
        "layers": found.layers,
        "hidden": [
            named("path", each.path) | {"size": each.size, "layer": each.layer, "by": each.by, "how": each.how}
            for each in found.hidden[:count]
        ],
        "broken_rules": list(broken),
    }
    if same is not None:
        fields["duplicates"] = [
            {"size": group.size, "files": [named("path", path) for path in group.paths]} for group in same[:count]
        ]
    return msgspec.json.encode(fields)
