"""YAML in the documentation: every document parses, and every command line of ocifs in it has options that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from ocifs.cli.verbs import cli

_ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```ya?ml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PLACEHOLDER = re.compile(r"\$\{\{[^}]*\}\}|\$\{?\w+\}?")


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


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of ocifs in shell code, without `ocifs`."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] | None = None
        begins = True
        for word in [*shlex.split(_PLACEHOLDER.sub("placeholder", line), comments=True), "&&"]:
            if word in {"&&", "||", "|", ";", "!", "]", "--", "then", "do", "sudo"} and not (words and word == "--"):
                if words:
                    yield words
                words, begins = None, True
            elif words is not None:
                if not word.startswith((">", "<", "2>")):
                    words.append(word)
            elif begins and (word == "ocifs" or word.endswith("/bin/ocifs")):
                words = []
            else:
                begins = False


def _parse(words: list[str]) -> None:
    """Parse a command line down to the last subcommand, without running it."""
    command: click.Command = cli
    context = click.Context(cli, info_name="ocifs", **cli.context_settings)
    while isinstance(command, click.Group):
        name, resolved, words = command.resolve_command(context, words)
        assert resolved is not None
        command, context = resolved, click.Context(resolved, context, info_name=name)
    command.parse_args(context, list(words))


def test_the_documents_have_manifests() -> None:
    assert len(DOCUMENTS) >= 5


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_manifest_parses(name: str) -> None:
    for document in yaml.safe_load_all(DOCUMENTS[name]):
        assert isinstance(document, (dict, list))
        for text in _strings(document):
            if "ocifs " in text:
                for words in _commands(text):
                    _parse(words)


def test_a_wrong_option_is_detected() -> None:
    (words,) = _commands("x && ocifs index push --all-tag docker://x/y | cat")
    with pytest.raises(click.UsageError):
        _parse(words)


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
