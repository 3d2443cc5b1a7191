"""Every console block of the documentation runs as printed, and prints what the document shows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.docker_registry import docker_registry, push
from tests.docs.conftest import ROOT, UNMOUNT_ALL, World
from tests.docs.console import Block, Shell, blocks, differs

_DOCUMENTS = [
    document
    for document in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    if "```console" in document.read_text()
]
_REGISTRY = "127.0.0.1:5055"
"""The registry's address in the documents."""
_HOME = "/home/user"
"""The working directory in the documents."""


@pytest.fixture
def registry_address(debian: Path, tmp_path: Path) -> Iterator[str]:
    """A registry with the image `debian:latest`."""
    with docker_registry(tmp_path) as host:
        push(f"oci:{debian}:latest", host, "debian:latest")
        yield host


@pytest.fixture
def shell(world: World, root: None) -> Iterator[Shell]:
    """A shell in the directory that the documents assume."""
    with Shell.start(world.home, world.environment) as shell:
        shell.run(UNMOUNT_ALL)
        yield shell
        shell.run(UNMOUNT_ALL)


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_console_blocks_run_as_printed(
    document: Path, shell: Shell, world: World, request: pytest.FixtureRequest
) -> None:
    text = document.read_text().replace(_HOME, str(world.home))
    if _REGISTRY in text:
        text = text.replace(_REGISTRY, request.getfixturevalue("registry_address"))
    wrong = [
        f"{document.relative_to(ROOT)}:{block.line}: {difference}"
        for block in blocks(text)
        if block.reason is None
        for difference in _differences(block, shell)
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def _differences(block: Block, shell: Shell) -> Iterator[str]:
    prepared = shell.run(block.before)[1] if block.before is not None else []
    for number, step in enumerate(block.steps):
        status, printed = shell.run(step.command)
        difference = differs(step.output, printed)
        is_status_shown = any("$?" in following.command for following in block.steps[number + 1 : number + 2])
        if difference is None and not is_status_shown and not step.may_exit_with(status):
            difference = f"exit status {status}"
        if difference is not None:
            yield f"$ {step.command}\n    {difference}" + (f"\n    before: {prepared}" if prepared else "")
