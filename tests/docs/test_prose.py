"""The text of the documentation: the length of its lines, and its links."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PAGES = [*sorted(_ROOT.glob("*.md")), *sorted(_ROOT.glob("docs/**/*.md"))]
_GENERATED = "<!-- Below this line scripts/bench writes. -->"
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_LONGEST = 130
_EXPLICIT = re.compile(r"^(?:https?:|mailto:)")


def _prose(page: Path) -> list[str]:
    """Return the lines of a page outside of code; others are empty."""
    lines, is_code = [], False
    for line in page.read_text().splitlines():
        is_fence = line.lstrip().startswith("```")
        is_code ^= is_fence
        lines.append("" if is_code or is_fence else line)
    return lines


def _anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    found: set[str] = set()
    for line in _prose(page):
        if heading := re.fullmatch(r"#+ (.*)", line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            found.add(slug if slug not in found else f"{slug}-1")
    return found


@pytest.mark.parametrize("page", _PAGES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_lines_have_up_to_120_characters(page: Path) -> None:
    """Except for tables, marks, and what scripts write; a few more are no reason to fail."""
    if page.name == "api-reference.md":
        pytest.skip("scripts/generate.py writes it")
    text = "\n".join(_prose(page)).partition(_GENERATED)[0]
    long = [line for line in text.splitlines() if len(line) > _LONGEST and not line.lstrip().startswith(("|", "<!--"))]
    assert long == []


@pytest.mark.parametrize("page", _PAGES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in _LINK.findall("\n".join(_prose(page))):
        if not _EXPLICIT.match(target):
            name, _, anchor = target.partition("#")
            there = (page.parent / name).resolve() if name else page
            if not there.exists() or (anchor and anchor not in _anchors(there)):
                wrong.append(target)
    assert wrong == []
