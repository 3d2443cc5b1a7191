"""YAML in the documentation: every document parses, and every command line of ocifs in it has options that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs.command_lines import commands, parse

_ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```ya?ml\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _documents() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each YAML document."""
    for path in [_ROOT / "README.md", *sorted(_ROOT.glob("docs/**/*.md"))]:
        text = path.read_text()
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start(1)) + 1
            yield f"{path.relative_to(_ROOT)}:{line}", match[1]
    for path in sorted(_ROOT.glob("docs/**/*.yaml")):
        yield str(path.relative_to(_ROOT)), path.read_text()


DOCUMENTS = dict(_documents())


def _strings(value: object) -> Iterator[str]:
    """Yield the strings in a document; a list of words, such as a container's `args`, counts as a line, too."""
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from _strings(each)
        case list():
            if any(str(each).rpartition("/")[2] == "ocifs" for each in value):
                yield shlex.join(map(str, value))
            for each in value:
                yield from _strings(each)


def test_the_documents_have_manifests() -> None:
    assert len(DOCUMENTS) >= 5


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_manifest_parses(name: str) -> None:
    for document in yaml.safe_load_all(DOCUMENTS[name]):
        assert isinstance(document, (dict, list))
        for text in _strings(document):
            if "ocifs " in text:
                for words in commands(text):
                    parse(words)


@pytest.mark.parametrize(
    "name", [name for name, text in DOCUMENTS.items() if re.search(r"^apiVersion:", text, re.MULTILINE)]
)
def test_manifests_of_kubernetes(name: str) -> None:
    """Every volume that a container mounts exists in its Pod, and every object has a kind and a name."""
    for document in yaml.safe_load_all(DOCUMENTS[name]):
        assert document["apiVersion"]
        assert document["kind"]
        assert document["apiVersion"].startswith("kind.x-k8s.io/") or document["metadata"]["name"]
        for spec in _pods(document):
            volumes = {each["name"] for each in spec.get("volumes", [])}
            containers = [*spec["containers"], *spec.get("initContainers", [])]
            mounted = {each["name"] for container in containers for each in container.get("volumeMounts", [])}
            assert mounted == volumes


def _pods(value: object) -> Iterator[dict]:  # type: ignore[type-arg] # as YAML has it
    match value:
        case {"containers": [*_]}:
            assert isinstance(value, dict)
            yield value
        case dict():
            for each in value.values():
                yield from _pods(each)
