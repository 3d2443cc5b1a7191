"""Every console block of the documentation runs as printed, and prints what the document shows."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.cli.docker_registry import docker_registry, push
from tests.docs.console import Block, Shell, blocks, differs

_ROOT = Path(__file__).parents[2]
_DOCUMENTS = [
    document
    for document in [_ROOT / "README.md", *sorted(_ROOT.glob("docs/**/*.md"))]
    if "```console" in document.read_text()
]
_REGISTRY = "127.0.0.1:5055"
"""The registry's address in the documents."""
_HOME = "/home/user"
"""The working directory in the documents."""
_UNMOUNT_ALL = "awk '/ - (fuse.ocifs|erofs) / {print $5}' /proc/self/mountinfo | xargs -r -n 1 umount -l"


@pytest.fixture
def registry_address(debian: Path, tmp_path: Path) -> Iterator[str]:
    """A registry with the image `debian:latest`."""
    with docker_registry(tmp_path) as host:
        push(f"oci:{debian}:latest", host, "debian:latest")
        yield host


@pytest.fixture
def shell(ocifs: Ocifs, debian: Path, root: None, tmp_path: Path) -> Iterator[Shell]:
    """A shell in a directory with the images `debian` and `sample` and the scripts, and with `ocifs` on its PATH."""
    command = tmp_path / "bin" / "ocifs"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from ocifs.cli.main import main; main()" "$@"\n')
    command.chmod(0o755)
    (ocifs.home / "debian").symlink_to(debian)
    (ocifs.home / "scripts").symlink_to(_ROOT / "scripts")
    subprocess.run([sys.executable, _ROOT / "scripts/sample_image.py", ocifs.home / "sample"], check=True)
    environment = ocifs.variables(
        PATH=f"{command.parent}:{os.environ['PATH']}",
        HOME=str(ocifs.home),
        XDG_CACHE_HOME=str(ocifs.home / ".cache"),
        COLUMNS="120",
    )
    with Shell.start(ocifs.home, environment) as shell:
        shell.run(_UNMOUNT_ALL)  # what other tests have mounted, from this namespace only
        yield shell
        shell.run(_UNMOUNT_ALL)


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: str(path.relative_to(_ROOT)))
def test_console_blocks_run_as_printed(document: Path, shell: Shell, registry_address: str, ocifs: Ocifs) -> None:
    text = document.read_text().replace(_REGISTRY, registry_address).replace(_HOME, str(ocifs.home))
    wrong = [
        f"{document.relative_to(_ROOT)}:{block.line}: {difference}"
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
