"""`ocifs tags`, as a user runs it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ocifs.errors import RegistryError
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.configuration import Endpoint
from ocifs.sources.registry.pages import read_pages
from ocifs.sources.registry.source import open_session
from tests.cli.in_process import Run, running
from tests.images import (
    Image,
    Layer,
    dir_files,
    docker_files,
    layout_files,
    tar,
    write_archive,
    write_directory,
    write_docker_archive,
    write_layout,
)
from tests.registry import Registry, status

IMAGES = tuple(Image((Layer(tar({name: b""})),), tag=name) for name in ("1.0", "2.0", "latest"))


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Run:
    return running(capfdbinary, tmp_path / "cache")


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
def test_a_registry_lists_them_in_pages(run: Run, registry: Registry, page: int) -> None:
    registry.page = page
    registry.add("team/app", layout_files(*IMAGES))
    assert run("tags", f"docker://{registry.host}/team/app").text == "1.0\n2.0\nlatest\n"
    listed = json.loads(run("tags", "--json", f"docker://{registry.host}/team/app:1.0").text)
    assert listed == {"image": f"docker://{registry.host}/team/app:1.0", "tags": ["1.0", "2.0", "latest"]}


def test_a_repository_without_tags(run: Run, registry: Registry) -> None:
    registry.add("app", layout_files(Image(tag=None)))
    assert run("tags", f"docker://{registry.host}/app").text == ""


def layout(path: Path) -> Path:
    return write_layout(path, *IMAGES, Image(tag=None), Image((Layer(tar({"z": b""})),), tag="1.0"))


def archive(path: Path) -> Path:
    return write_archive(path, layout_files(*IMAGES))


def saved(path: Path) -> Path:
    return write_docker_archive(path, (IMAGES[0], ["app:1", "app:2"]), (IMAGES[1], []), (IMAGES[2], ["b\x1b[2J:1"]))


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (layout, "1.0\n2.0\nlatest\n"),
        (archive, "1.0\n2.0\nlatest\n"),
        (saved, "app:1\napp:2\nb\\x1b[2J:1\n"),
        (lambda path: write_directory(path, dir_files(IMAGES[0])), ""),
    ],
    ids=["layout", "archive", "docker save", "dir"],
)
def test_places_on_this_machine(run: Run, tmp_path: Path, write: Callable[[Path], Path], expected: str) -> None:
    assert run("tags", write(tmp_path / "x")).text == expected


def looping(link: str) -> Callable[..., None]:
    """Return a fault: a page that links to `link`."""

    def act(handler, blob) -> None:  # type: ignore[no-untyped-def] # as tests.registry.Act
        handler.answer(200, b'{"tags": ["1"]}', {"Link": f'<{link}>; rel="next"'})

    return act


@pytest.mark.parametrize(
    ("act", "code", "message"),
    [
        (status(404), 3, "has no list of tags of app"),
        (status(403), 9, "refuses list of tags of app"),
        (looping("ftp://x/"), 9, "unusable URL"),
        (lambda handler, blob: handler.answer(200, b'{"tags": ["a b"]}'), 9, "lists 'a b', which is not a tag"),
        (lambda handler, blob: handler.answer(200, b'{"tags": ["\\u001b[2J"]}'), 9, r"'\x1b[2J', which is not a tag"),
        (lambda handler, blob: handler.answer(200, b"[]"), 4, "list of tags of app"),
        (
            lambda handler, blob: handler.answer(
                200, b'{"tags": ["z", "y", %s]}' % b",".join(b'"%d"' % n for n in range(99_999))
            ),
            9,
            "more than 100000 tags",
        ),
    ],
)
def test_bad_answers(run: Run, registry: Registry, act: Callable[..., None], code: int, message: str) -> None:
    registry.add("app", layout_files(*IMAGES))
    registry.fault(act, "/tags/")
    ran = run("tags", f"docker://{registry.host}/app")
    assert (ran.code, ran.out) == (code, b"")
    assert message in ran.err
    assert ran.err.count("\n") == 1


def test_a_page_on_another_host(run: Run, registry: Registry) -> None:
    registry.add("app", layout_files(*IMAGES))
    other = f"http://localhost:{registry.host.rpartition(':')[2]}/v2/app/tags/list?n=7"
    registry.fault(looping(other), "/tags/", times=1)
    assert run("tags", f"docker://{registry.host}/app").text == "1\n1.0\n2.0\nlatest\n"
    assert registry.requests[-1].headers["host"].startswith("localhost:")


def test_pages_that_never_end(registry: Registry) -> None:
    registry.fault(looping("/v2/app/tags/list?n=1"), "/tags/")
    endpoint = Endpoint(registry.host, "app", insecure=True)
    session = open_session(endpoint, Access())
    with pytest.raises(RegistryError, match="sends the tags in more than 3 pages: refused"):
        list(read_pages(session, "tags/list", {}, "the tags", 3))
    session.close()
    assert len([request for request in registry.requests if "/tags/" in request.path]) == 3


def test_habits(run: Run) -> None:
    assert "use `ocifs tags docker://HOST/REPOSITORY`" in run("list-tags", "docker://x/y").err


def test_compressed_archives(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(tar(dict(docker_files((IMAGES[0], ["app:1"]))))))
    assert run("tags", tmp_path / "a").text == "app:1\n"
