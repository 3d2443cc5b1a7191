"""The TOML in the documentation, and settings as TOML: containerd's configurations in tests are those of the docs."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^( *)```toml\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_BARE = re.compile(r"[A-Za-z0-9_-]+")

Table = dict[str, Any]


def toml_blocks(page: str) -> list[str]:
    """Return the blocks of TOML on a page, in order."""
    text = (_DOCS / page).read_text()
    return [re.sub(f"^{match[1]}", "", match[2], flags=re.MULTILINE) for match in _BLOCK.finditer(text)]


def containerd_1() -> Table:
    """Return the documented configuration of containerd 1.6 and 1.7."""
    return tomllib.loads(toml_blocks("kubernetes.md")[0])


def containerd_2() -> Table:
    """Return that of containerd 2.x, in which the transfer service pulls."""
    return tomllib.loads(toml_blocks("kubernetes.md")[1])


def with_docker() -> Table:
    """Return what docs/docker.md appends to the file of Docker's packages."""
    return tomllib.loads(toml_blocks("docker.md")[0])


def merged(table: Mapping[str, Any], other: Mapping[str, Any]) -> Table:
    """Return a table with the values of another one in it; tables are merged, other values replaced."""
    result = dict(table)
    for key, value in other.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result


def to_toml(table: Mapping[str, Any]) -> str:
    """Return a table of tables, strings, numbers, booleans and lists as TOML."""
    return "\n".join(_lines(table, ""))


def _lines(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in table.items():
        if not _is_table(value):
            yield f"{_key(key)} = {json.dumps(value)}"
    for key, value in table.items():
        if _is_table(value):
            name = f"{prefix}{_key(key)}"
            for each in value if isinstance(value, list) else [value]:
                yield f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
                yield from _lines(each, f"{name}.")


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict) for each in value))


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key)
