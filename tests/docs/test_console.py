"""Every console block of the documentation runs as printed, and prints what the document shows."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ocifs.mount.record import is_keeper
from tests.cli.command import Ocifs
from tests.cli.docker_registry import docker_registry, push
from tests.docs.conftest import ROOT, UNMOUNT_ALL, World
from tests.docs.console import Block, Shell, Step, blocks, differs, fences
from tests.podman.conftest import podman_with, short_directory

_PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
_DOCUMENTS = [page for page in _PAGES if any(block.reason is None for block in blocks(page.read_text()))]
_REGISTRY = "127.0.0.1:5055"
"""The registry's address in the documents."""
_METRICS = "127.0.0.1:9497"
_HOME = "/home/user"
"""The working directory in the documents."""
_PODMAN = {
    "/srv/images": "images",
    "/etc/containers/storage.conf": "storage.conf",
    "/var/lib/containers/storage": "root",
    "/run/podman/podman.sock": "podman.sock",
}
"""Files of podman in the documents, and their names in a directory of the test."""


@dataclass
class Reader:
    """Runs the blocks of a document: in a shell of root, or in that of an ordinary user."""

    request: pytest.FixtureRequest
    replaced: dict[str, str]
    """What the documents say, and what stands for it here."""

    def differences(self, block: Block) -> Iterator[str]:
        """Yield where the output of the shell differs from the document."""
        shell, home = self._shell(block)
        prepared = shell.run(self._here(block.before, home))[1] if block.before is not None else []
        for number, step in enumerate(block.steps):
            status, printed = shell.run(self._here(step.command, home))
            difference = differs([self._here(line, home) for line in step.output], printed)
            is_status_shown = any("$?" in following.command for following in block.steps[number + 1 : number + 2])
            if difference is None and not is_status_shown and not step.may_exit_with(status):
                difference = f"exit status {status}: {printed}"
            if difference is not None:
                yield f"$ {step.command}\n    {difference}" + (f"\n    before: {prepared}" if prepared else "")

    def allows(self, block: Block) -> bool:
        """Whether the condition of the block holds."""
        return block.condition is None or self._shell(block)[0].run(block.condition)[0] == 0

    def _shell(self, block: Block) -> tuple[Shell, Path]:
        name = "user" if block.as_user else "root"
        place: tuple[Shell, Path] = self.request.getfixturevalue(f"shell_of_{name}")
        return place

    def _here(self, text: str, home: Path) -> str:
        for said, meant in {**self.replaced, _HOME: str(home)}.items():
            text = text.replace(said, meant)
        return text


_CLEARED = ("sh", "-c", f'{UNMOUNT_ALL}; exec "$@"', "sh")
"""Run a command without the mounts of other tests, of which its mount namespace has copies."""


@pytest.fixture
def shell_of_root(world: World, ocifs: Ocifs, root: None) -> Iterator[tuple[Shell, Path]]:
    """A shell in the directory that the documents assume."""
    with Shell.start(world.home, world.environment, _CLEARED) as shell:
        yield shell, world.home
        shell.run(UNMOUNT_ALL)
    for pid in ocifs.processes():
        if is_keeper(pid):
            os.kill(pid, signal.SIGTERM)


@pytest.fixture
def shell_of_user(user_world: World, user: Ocifs) -> Iterator[tuple[Shell, Path]]:
    """The same for an ordinary user."""
    with Shell.start(user_world.home, user_world.environment, (*_CLEARED, *user.become)) as shell:
        yield shell, user_world.home
        shell.run("ocifs umount --all")


@pytest.fixture
def registry_address(tmp_path: Path) -> Iterator[str]:
    """An empty registry."""
    with docker_registry(tmp_path) as host:
        yield host


@pytest.fixture
def podman() -> Iterator[dict[str, str]]:
    """A storage of podman's own; what the documents call its files, and where they are. The test names the store."""
    with short_directory() as home, podman_with(home / "images", home, ()):
        configuration = home / "storage.conf"
        lines = configuration.read_text().splitlines(keepends=True)
        configuration.write_text("".join(line for line in lines if "additionalimagestores" not in line))
        yield {said: str(home / name) for said, name in _PODMAN.items()}


@pytest.mark.timeout(1800)  # cli.md has 150 commands
@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_console_blocks_run_as_printed(document: Path, request: pytest.FixtureRequest) -> None:
    text = document.read_text()
    wanted = [block for block in blocks(text) if block.reason is None]
    replaced = {}
    if _REGISTRY in text:
        replaced[_REGISTRY] = host = request.getfixturevalue("registry_address")
        if f"{_REGISTRY}/debian:latest" in text:
            push(f"oci:{request.getfixturevalue('debian')}:latest", host, "debian:latest")
    if _METRICS in text:
        with socket.create_server(("127.0.0.1", 0)) as free:
            replaced[_METRICS] = f"127.0.0.1:{free.getsockname()[1]}"
    if any(block.condition == "command -v podman" for block in wanted):
        replaced |= request.getfixturevalue("podman")
        configuration = Path(replaced["/etc/containers/storage.conf"])
        shell, _ = request.getfixturevalue("shell_of_root")
        shell.run(f"export CONTAINERS_STORAGE_CONF={configuration}")
        shell.run(f"export CONTAINERS_CONF={configuration.with_name('containers.conf')}")
        shell.run("unset DOCKER_CONFIG")  # podman refuses one that does not exist
    reader = Reader(request, replaced)
    wrong, left_out = [], []
    for block in wanted:
        if reader.allows(block):
            place = f"{document.relative_to(ROOT)}:{block.line}"
            wrong += [f"{place}: {difference}" for difference in reader.differences(block)]
        else:
            left_out.append(f"line {block.line} ({block.condition})")
    assert not wrong, "\n" + "\n".join(wrong)
    if left_out:
        pytest.skip(f"the rest runs; this machine cannot run {', '.join(left_out)}")


@pytest.mark.parametrize("page", _PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_in_a_console_block(page: Path) -> None:
    """Only these blocks run. Elsewhere a `$` begins no line, and a `#` only where it begins a comment."""
    text = page.read_text()
    found = list(fences(text))
    for fence in found:
        if fence.language != "console":
            lines = fence.text.splitlines()
            prompts = ("$ ", "# ") if fence.language in {"", "text"} else ("$ ",)
            assert [line for line in lines if line.startswith(prompts)] == [], f"line {fence.line}"
    marks = [line for line in text.splitlines() if re.match(r"<!-- (not run|if|first run|as user)", line)]
    assert len(marks) == sum(len(fence.marks) for fence in found), "a mark is directly above its block"


@pytest.mark.parametrize("mark", ["not run", "not run:", "if", "as user: root", "never run: whatever"])
def test_a_mark_needs_a_reason(mark: str) -> None:
    with pytest.raises(ValueError, match="line 3: not a mark of a console block"):
        list(blocks(f"<!-- {mark} -->\n```console\n$ true\n```\n"))


def test_marks() -> None:
    marks = "<!-- if: command -v x -->\n<!-- as user -->\n<!-- first run: y -->\n"
    (block,) = blocks(f"{marks}```console\n$ x\n1\n\n# z\n```\n")
    assert block == Block(5, [Step("x", ["1"]), Step("z", [])], None, "command -v x", "y", as_user=True)
