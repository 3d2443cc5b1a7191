"""`ocifs index push` of many images: which it skips, which fail, and the exit status."""

import io
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from ocifs.cli.verbs import run
from tests.cli.command import Ocifs, Result
from tests.images import Image, Layer, digest, layout_files, tar, write_layout
from tests.registry import Blob, Handler, Registry, slowly, status, wrong_bytes

TAGS = ("1.0", "1.1", "2.0")
IMAGES = tuple(Image((Layer(tar({name: name.encode()})),), tag=name) for name in TAGS)
LATEST = Image(IMAGES[-1].layers, tag="latest")


class Push:
    """Runs `ocifs index push`, in this process."""

    def __init__(self, capture: pytest.CaptureFixture[bytes], registry: Registry) -> None:
        self.capture = capture
        self.registry = registry

    def __call__(self, *arguments: str | Path) -> Result:
        code = run(["index", "push", *map(str, arguments)], None)
        out, err = self.capture.readouterr()
        return Result(code, out, err.decode())

    def outcomes(self, *arguments: str | Path) -> dict[str, str]:
        """Return the outcome for each tag; with a reason, if there is one."""
        ran = self("--json", *arguments)
        assert ran.out, ran
        lines = [json.loads(line) for line in ran.text.splitlines()]
        return {
            each["image"].rpartition(":")[2]: each["outcome"] + (f": {each['reason']}" if each["reason"] else "")
            for each in sorted(lines, key=lambda each: each["image"])
        }


@pytest.fixture
def push(
    capfdbinary: pytest.CaptureFixture[bytes], registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Push:
    monkeypatch.setenv("OCIFS_CACHE_DIR", str(tmp_path / "cache"))
    return Push(capfdbinary, registry)


PUBLISHED = "skipped: its index is published"


def test_all_tags_once_and_again(push: Push, registry: Registry) -> None:
    repository = registry.add("app", layout_files(*IMAGES))
    first = push("--all-tags", repository)
    assert first.code == 0
    assert first.err == "ocifs: pushed: 3, skipped: 0, failed: 0\n"
    lines = sorted(line.split() for line in first.text.splitlines())
    assert [line[:2] for line in lines] == [["pushed", f"{repository}:{tag}"] for tag in TAGS]
    registry.requests.clear()
    assert push.outcomes("--all-tags", repository) == dict.fromkeys(TAGS, PUBLISHED)
    assert {request.method for request in registry.requests} == {"GET"}
    assert push.outcomes("--all-tags", "--force", repository) == dict.fromkeys(TAGS, "pushed")


def test_a_new_tag_of_the_same_image_takes_no_second_index(push: Push, registry: Registry) -> None:
    repository = registry.add("app", layout_files(*IMAGES, LATEST))
    outcomes = push.outcomes("--all-tags", "-j", "1", repository)
    assert outcomes.pop("latest") == f"skipped: the same image as {repository}:2.0"
    assert outcomes == dict.fromkeys(TAGS, "pushed")


def test_tags_of_artifacts_are_no_images(push: Push, registry: Registry) -> None:
    """Without the API for referrers, an index gets a tag; cosign makes tags, too."""
    registry.has_referrers = False
    repository = registry.add("app", layout_files(*IMAGES))
    registry.manifests["app"][f"sha256-{'a' * 64}.sig"] = registry.manifests["app"]["1.0"]
    assert push.outcomes("--all-tags", repository) == dict.fromkeys(TAGS, "pushed")
    assert push.outcomes("--all-tags", repository) == dict.fromkeys(TAGS, PUBLISHED)


def test_several_arguments_and_a_list(push: Push, registry: Registry, tmp_path: Path) -> None:
    repository = registry.add("app", layout_files(*IMAGES))
    (tmp_path / "list").write_text(
        f"# images\n\n  {repository}:1.0 # the old one\n{repository}:1.1\n{repository}:1.0\n"
    )
    assert push.outcomes("--from", tmp_path / "list", f"{repository}:2.0") == dict.fromkeys(TAGS, "pushed")


def test_a_list_on_standard_input(push: Push, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = registry.add("app", layout_files(*IMAGES))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{repository}:1.0\n".encode())))
    assert push.outcomes("--from", "-") == {"1.0": "pushed"}


@pytest.mark.parametrize("jobs", [2, 3])
def test_so_many_images_at_the_same_time(push: Push, registry: Registry, jobs: int) -> None:
    """The registry answers no request for a layer before those of so many images have come."""
    repository = registry.add("app", layout_files(*IMAGES))
    layers = {digest(image.layers[0].blob) for image in IMAGES}
    requested: set[str] = set()
    changed = threading.Condition()

    def meet(handler: Handler, blob: Blob) -> None:
        with changed:
            requested.add(handler.path)
            changed.notify_all()
            met = changed.wait_for(lambda: len(requested) >= jobs, 60)
        handler.serve(blob) if met else handler.answer(404, b"")

    registry.fault(meet, "|".join(layers))
    assert push.outcomes("--all-tags", "-j", str(jobs), repository) == dict.fromkeys(TAGS, "pushed")


def test_a_layout_directory_with_many_images(push: Push, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", *IMAGES)
    assert push.outcomes("--all-tags", "-j", "3", layout) == dict.fromkeys(TAGS, "pushed")
    assert push.outcomes("--all-tags", layout) == dict.fromkeys(TAGS, PUBLISHED)


def test_other_formats(push: Push, registry: Registry) -> None:
    repository = registry.add("app", layout_files(*IMAGES))
    soci = ("--all-tags", "--format", "soci", "--min-layer-size", "0", repository)
    assert push.outcomes(*soci) == dict.fromkeys(TAGS, "pushed")
    assert push.outcomes(*soci) == dict.fromkeys(TAGS, PUBLISHED)
    assert push.outcomes("--all-tags", repository) == dict.fromkeys(TAGS, "pushed")


def test_some_fail(push: Push, registry: Registry) -> None:
    repository = registry.add("app", layout_files(*IMAGES))
    registry.fault(wrong_bytes, digest(IMAGES[1].layers[0].blob))
    names = [f"{repository}:{tag}" for tag in (*TAGS, "none", "\x1b")]
    ran = push(*names)
    assert ran.code == 10
    assert ran.err == "ocifs: pushed: 2, skipped: 0, failed: 3\n"
    failed = sorted(line for line in ran.text.splitlines() if line.startswith("failed"))
    assert {line.split()[1].removeprefix(repository) for line in failed} == {":1.1", ":\\x1b", ":none"}
    assert any("has no manifest none in app" in line for line in failed)


@pytest.mark.parametrize(("act", "code"), [(status(404), 3), (status(401), 9)])
def test_all_fail_with_the_status_of_the_failure(push: Push, registry: Registry, act, code: int) -> None:  # type: ignore[no-untyped-def]
    repository = registry.add("app", layout_files(*IMAGES))
    registry.fault(act, "/manifests/")
    assert push("--all-tags", repository).code == code


def test_a_full_cache(push: Push, registry: Registry, small_disk: Path) -> None:
    """The indexes are published without it."""
    large = [Image((Layer(tar({"random": os.urandom(300_000)})),), tag=str(n)) for n in range(3)]
    repository = registry.add("app", layout_files(*large))
    ran = push("--cache-dir", small_disk, "--all-tags", repository)
    assert ran.code == 0
    assert ran.err.count("No space left on device: continuing without it") == 1
    assert ran.err.endswith("ocifs: pushed: 3, skipped: 0, failed: 0\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing argument 'IMAGE'"),
        (["--all-tags"], "missing argument 'IMAGE'"),
        (["--all-tags", "--record", "/mnt", "x"], "--tag and --record are for a single IMAGE"),
        (["--format", "soci-v2", "--tag", "t", "a", "b"], "--tag and --record are for a single IMAGE"),
        (["-j", "0", "a", "b"], "0 is not in the range 1<=x<=32"),
        (["--from", "/missing"], "cannot read /missing: No such file or directory"),
        (["--from", "/proc/self/exe"], "cannot read /proc/self/exe: it is not text"),
    ],
)
def test_refused(push: Push, arguments: list[str], message: str) -> None:
    ran = push(*arguments)
    assert message in ran.err
    assert ran.code in {1, 2}


def test_an_empty_list(push: Push, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# none yet\n")
    assert push("--from", tmp_path / "list") == (0, b"", "ocifs: pushed: 0, skipped: 0, failed: 0\n")


def test_interrupted_and_continued(ocifs: Ocifs, registry: Registry) -> None:
    """push skips finished images, and resumes an unfinished download."""
    large = Layer(tar({"random": os.urandom(3_000_000)}))
    repository = registry.add("app", layout_files(*IMAGES, Image((large,), tag="3.0")))
    registry.fault(slowly(500_000), digest(large.blob), times=1)
    with ocifs.start("index", "push", "-j", "1", "--all-tags", repository) as process:
        while len(list(ocifs.cache.glob("entries/begun1-*"))) == 0 or not any(
            each.stat().st_size > 100_000 for each in ocifs.cache.glob("entries/begun1-*")
        ):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    registry.requests.clear()
    ran = ocifs.run("index", "push", "--all-tags", repository)
    assert ran.err == "ocifs: pushed: 1, skipped: 3, failed: 0\n"
    continued = next(request for request in registry.sent if digest(large.blob) in request.path)
    assert continued.range.startswith("bytes=")
