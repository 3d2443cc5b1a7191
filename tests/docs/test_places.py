"""The guide to removing ocifs names every place where ocifs writes by itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.cli import setup_mount

_ROOT = Path(__file__).parents[2]
_REMOVE = (_ROOT / "docs/guides/install.md").read_text().partition("\n## Remove\n")[2]
_NAMED = re.findall(r"`(/[^`…]+)", _REMOVE)


def _places() -> Iterator[str]:
    """Yield the absolute paths of ocifs that modules contain, and the directories that the units get from systemd."""
    for module in (_ROOT / "ocifs").rglob("*.py"):
        tree = ast.parse(module.read_text())
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                yield from re.findall(r"(?<![\w.}])/(?:var|run|tmp|etc|usr|sbin|opt)/[\w./-]*ocifs[\w./-]*", node.value)
    for unit in (_ROOT / "ocifs").rglob("*.service"):
        for kind, name in re.findall(
            r"^(Cache|State|Runtime|Logs|Configuration)Directory=(\S+)", unit.read_text(), re.M
        ):
            yield {"Cache": "/var/cache", "State": "/var/lib", "Runtime": "/run"}[kind] + f"/{name}"
    for name in setup_mount._NAMES:
        yield f"/sbin/{name}"


PLACES = sorted({re.sub(r"^/run/user/\d+", "/run/user/UID", place) for place in _places()})


def test_there_are_places() -> None:
    assert {"/run/ocifs", "/var/cache/ocifs", "/var/lib/ocifs/snapshotter"} <= set(PLACES)


@pytest.mark.parametrize("place", PLACES)
def test_the_guide_names_it(place: str) -> None:
    """Or a directory above it, or, for a directory that systemd makes, what is in it."""
    assert any(place.startswith(named) or named.startswith(f"{place}/") for named in _NAMED), _NAMED
