"""`ocifs store` without podman: what it prints, and how it ends on bad input.

The commands run in this process, and start daemons as ever.
"""

import gzip
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocifs.mount.mountinfo import mount_at
from tests.cli.command import Argument
from tests.cli.in_process import Run, running
from tests.images import Image, Layer, layout_files, tar, write_docker_archive, write_layout
from tests.registry import Registry
from tests.tocs import estargz

BASE = Layer(tar({"etc/": None, "etc/base": b"base\n"}))
FIRST = Image((BASE, Layer(tar({"first": b"1"}))))
SECOND = Image((BASE, Layer(tar({"second": b"2"}))))
CONTENTS = {"base": b"base\n", "first": b"1", "second": b"2", "third": b"3"}


class Commands:
    """`ocifs`, run in this process."""

    def __init__(self, home: Path, run: Run) -> None:
        self.home = home
        self.run = run

    def output(self, *arguments: Argument) -> str:
        result = self.run(*arguments)
        assert (result.code, result.err) == (0, ""), result
        return result.text

    def complaint(self, code: int, *arguments: Argument) -> str:
        result = self.run(*arguments)
        assert (result.code, result.out) == (code, b""), result
        return result.err.removeprefix("ocifs: ").rstrip("\n")

    @staticmethod
    def clear(mountpoint: Path) -> None:
        while mount_at(str(mountpoint)):
            subprocess.run(["umount", "-l", mountpoint], check=True)


@pytest.fixture
def ocifs(
    fuse: None, root: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Commands:
    """Skip where root cannot mount: an ordinary user needs subordinate ids."""
    monkeypatch.setenv("OCIFS_NO_SERVICE", "1")
    for name in ("XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return Commands(tmp_path / "home", running(capfdbinary))


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "first", FIRST)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "second", SECOND)


@contextmanager
def store_of(ocifs: Commands, *images: Path) -> Iterator[Path]:
    store = ocifs.home / "store"
    try:
        for image in images:
            added = ocifs.run("store", "add", store, image)
            assert added.code == 0, added
        yield store
    finally:
        ocifs.clear(store / "overlay")


def listed(ocifs: Commands, store: Path) -> dict[str, list[str]]:
    found = json.loads(ocifs.output("store", "ls", "--json", store))
    return {each["source"].rpartition("/")[2].partition("@")[0]: each["names"] for each in found["images"]}


def content(store: Path) -> set[str]:
    return {path.name for path in (store / "overlay").glob("*/diff/*")}


def damaged(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.truncate()
        file.write(data)


def test_adding_listing_and_removing(ocifs: Commands, first: Path, second: Path) -> None:
    with store_of(ocifs) as store:
        made = ocifs.run("store", "add", store, first)
        assert (made.code, made.text[64:]) == (0, " localhost/first:latest\n")
        assert f'additionalimagestores = ["{store}"]' in made.err
        more = ocifs.run("store", "add", "--name", "app:2", store, second)
        assert (more.code, more.text[64:], more.err) == (0, " localhost/app:2\n", "")
        head, *rows = ocifs.output("store", "ls", store).splitlines()
        assert head.split() == ["NAME", "ID", "LAYERS", "SIZE", "PUSH", "SOURCE"]
        assert [row.split()[0] for row in rows] == ["localhost/first:latest", "localhost/app:2"]
        assert content(store) == {"etc", "first", "second"}
        assert ocifs.output("store", "check", store) == ""
        assert ocifs.output("store", "rm", store, "app:2") == ""
        assert content(store) == {"etc", "first"}
        assert ocifs.output("store", "rm", store, made.text[:12]) == ""
        assert (listed(ocifs, store), content(store)) == ({}, set())
        assert sorted(os.listdir(store / "overlay-layers")) == ["layers.json", "layers.lock"]


def test_an_image_that_is_there_already_gets_further_names(ocifs: Commands, first: Path) -> None:
    with store_of(ocifs, first, first) as store:
        ocifs.output("store", "add", "--name", "other", store, first)
        assert listed(ocifs, store) == {"first": ["localhost/first:latest", "localhost/other:latest"]}
        assert len(json.loads((store / "overlay-layers/layers.json").read_bytes())) == 2


def test_a_name_means_the_latest_image(ocifs: Commands, first: Path, second: Path) -> None:
    """podman refuses a store in which two images have a name."""
    with store_of(ocifs, first) as store:
        ocifs.output("store", "add", "--name", "first", store, second)
        assert listed(ocifs, store) == {"first": [], "second": ["localhost/first:latest"]}


def test_several_images_at_once(ocifs: Commands, first: Path, second: Path, tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "saved.tar", (Image(), ["example.org/a:1"]), (SECOND, ["b:2"]))
    with store_of(ocifs) as store:
        added = ocifs.run("store", "add", store, first, f"{archive}:example.org/a:1", f"{archive}:b:2")
        assert added.code == 0, added
        found = json.loads(ocifs.output("store", "ls", "--json", store))
        names = {name for each in found["images"] for name in each["names"]}
        assert names == {"example.org/a:1", "localhost/b:2", "localhost/first:latest"}


def test_images_of_compressed_archives(ocifs: Commands, tmp_path: Path) -> None:
    third = Image((BASE, Layer(tar({"third": b"3"}))))
    archives = [((FIRST, ["app:1"]), (third, ["app:3"])), ((SECOND, ["app:2"]),)]
    for number, images in enumerate(archives):
        saved = write_docker_archive(tmp_path / "saved.tar", *images)
        (tmp_path / f"{number}.tar.gz").write_bytes(gzip.compress(saved.read_bytes()))
    with store_of(ocifs) as store:
        for image in ("0.tar.gz:app:1", "1.tar.gz", "0.tar.gz:app:3"):
            assert ocifs.run("store", "add", store, f"{tmp_path}/{image}").code == 0
            files = [path for path in store.glob("overlay/*/diff/**/*") if path.is_file()]
            assert all(path.read_bytes() == CONTENTS[path.name] for path in files)
        assert {path.name for path in files} == set(CONTENTS)
        assert ocifs.output("store", "check", store) == ""


def test_a_failed_add_leaves_nothing(ocifs: Commands, first: Path) -> None:
    broken = layout_files(SECOND)
    broken = {
        name: data[:-1] if name.endswith(SECOND.layers[1].diff_id or "") else data for name, data in broken.items()
    }
    with store_of(ocifs, first) as store:
        before = {path: path.read_bytes() for path in store.rglob("*.json")}
        for image in ("missing", "-"):
            assert ocifs.run("store", "add", store, first, image).code != 0
        assert {path: path.read_bytes() for path in store.rglob("*.json")} == before
        assert ocifs.output("store", "check", store) == ""


def test_a_full_disk_leaves_nothing(ocifs: Commands, small_disk: Path, first: Path, tmp_path: Path) -> None:
    big = write_layout(tmp_path / "big", Image((Layer(tar({f"{n}": os.urandom(8) * 64 for n in range(9000)})),)))
    store = small_disk / "store"
    try:
        assert ocifs.run("store", "add", store, first).code == 0
        failed = ocifs.run("store", "add", store, big)
        assert (failed.code, failed.err) == (8, f"ocifs: store {store}: No space left on device\n")
        assert listed(ocifs, store) == {"first": ["localhost/first:latest"]}
        assert ocifs.output("store", "check", store) == ""
    finally:
        ocifs.clear(store / "overlay")


def test_a_missing_store(ocifs: Commands) -> None:
    for command in (["ls"], ["check"], ["check", "--repair"], ["mount"], ["umount"]):
        message = ocifs.complaint(8, "store", *command, "no/such")
        assert message == "store no/such does not exist: `ocifs store add no/such IMAGE` makes it"
    assert "is not a store of ocifs" in ocifs.complaint(8, "store", "ls", ocifs.home)
    assert "is not a store of ocifs" in ocifs.complaint(8, "store", "check", "--repair", ocifs.home)


_DAMAGE = [
    ("overlay-images/images.json", b'[{"id":"', "overlay-images/images.json is damaged"),
    ("overlay-layers/layers.json", b'[{"id":"', "overlay-layers/layers.json is damaged"),
    ("overlay-layers/layers.json", b"[]", "lacks layers"),
    ("overlay-images/*/manifest", b"", "lacks its document manifest"),
    ("overlay-layers/*.tar-split.gz", b"\x1f\x8b", "not a complete gzip file"),
]


def test_damage_is_found_and_repaired(ocifs: Commands, first: Path, second: Path) -> None:
    with store_of(ocifs, first, second) as store:
        before = listed(ocifs, store)
        for file, data, problem in _DAMAGE:
            damaged(next(store.glob(file)), data)
            found = ocifs.run("store", "check", store)
            assert (found.code, problem in found.text) == (1, True), found
            repaired = ocifs.run("store", "check", "--repair", store)
            assert (repaired.code, repaired.text) == (0, found.text)
            assert ocifs.output("store", "check", store) == ""
            assert listed(ocifs, store) == before
        assert content(store) == {"etc", "first", "second"}


def test_what_is_not_used_or_contradicts_is_found_and_repaired(ocifs: Commands, first: Path, second: Path) -> None:
    with store_of(ocifs, first, second) as store:
        images = json.loads((store / "overlay-images/images.json").read_bytes())
        images[1]["names"] = images[0]["names"]
        damaged(store / "overlay-images/images.json", json.dumps(images).encode())
        layers = json.loads((store / "overlay-layers/layers.json").read_bytes())
        damaged(store / "overlay-layers/layers.json", json.dumps([*layers, {**layers[0], "id": "f" * 64}]).encode())
        found = ocifs.run("store", "check", "--repair", store).text
        assert "the name localhost/first:latest means 2 images\n" in found
        assert "layers that no image uses, or without those below them: 1\n" in found
        assert ocifs.output("store", "check", store) == ""


def test_a_store_whose_own_record_is_damaged_cannot_be_repaired(ocifs: Commands, first: Path) -> None:
    with store_of(ocifs, first) as store:
        damaged(store / "ocifs.json", b"{")
        for options in ([], ["--repair"]):
            assert "ocifs.json is damaged" in ocifs.run("store", "check", *options, store).err


def test_an_image_whose_source_is_gone(ocifs: Commands, first: Path, second: Path, tmp_path: Path) -> None:
    """The others are mounted; nothing can be added, since the mount would lose the image."""
    with store_of(ocifs, first, second) as store:
        first.rename(tmp_path / "elsewhere")
        ocifs.output("store", "umount", store)
        mounted = ocifs.run("store", "mount", store)
        assert mounted.code == 3
        assert re.fullmatch(r"ocifs: warning: image \w{12} is left out: no such file.*\n", mounted.err)
        assert content(store) == {"etc", "second"}
        assert re.search(r"layer \w{12} is not in the mount", ocifs.run("store", "check", store).text)
        assert ocifs.run("store", "add", store, second).code == 3
        (tmp_path / "elsewhere").rename(first)
        ocifs.output("store", "mount", store)
        assert ocifs.output("store", "check", store) == ""


def test_mounting_twice_changes_nothing(ocifs: Commands, first: Path) -> None:
    def mounts() -> list[int]:
        return [each["pid"] for each in json.loads(ocifs.output("mounts", "--json")) if each["pid"]]

    with store_of(ocifs, first) as store:
        before = mounts()
        ocifs.output("store", "mount", store)
        assert mounts() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "a", "x", "y"], "--name is for a single IMAGE"),
        (["--subuid", "x"], "--subuid is for ordinary users"),
        (["--idmap", "no-such-user", "x"], "there is no user no-such-user"),
        (["--idmap", "root", "x"], "user root has no subordinate ids in /etc/subuid"),
        (["--name", "A B", "x"], "malformed name 'A B'"),
        (["--survive", "--engine", "fuse", "{first}"], "--survive is for root and the erofs engine"),
    ],
)
def test_options_that_do_not_fit(ocifs: Commands, first: Path, options: list[str], message: str) -> None:
    if "root" in options and "root:" in Path("/etc/subuid").read_text():
        pytest.skip("root has subordinate ids here")
    ended = ocifs.run("store", "add", *options[:-1], ocifs.home / "store", options[-1].format(first=first))
    assert (ended.code > 0, message in ended.err) == (True, True), ended


def test_a_store_with_mapped_ids_needs_the_erofs_engine(ocifs: Commands, first: Path) -> None:
    with store_of(ocifs, first) as store:
        record = json.loads((store / "ocifs.json").read_bytes())
        record["ids"] = {"user": "someone", "kind": "idmap", "uids": [[0, 1, 1]], "gids": [[0, 1, 1]]}
        damaged(store / "ocifs.json", json.dumps(record).encode())
        refused = ocifs.run("store", "add", "--engine", "fuse", store, first)
        assert (refused.code, "a store with --idmap needs the erofs engine" in refused.err) == (2, True)


def test_an_index_that_is_verified_later(ocifs: Commands, registry: Registry) -> None:
    """The layers keep their IDs, since images may be built on them; a push becomes possible."""
    image = Image((estargz(BASE.tar), estargz(FIRST.layers[1].tar)))
    registry.add("lazy", layout_files(image))
    name = f"docker://{registry.host}/lazy:latest"
    options = ["--tls-verify=false"]
    with store_of(ocifs) as store:
        assert ocifs.run("store", "add", *options, "--no-prefetch", store, name).code == 0
        (before,) = json.loads(ocifs.output("store", "ls", "--json", store))["images"]
        layers = json.loads((store / "overlay-layers/layers.json").read_bytes())
        assert (before["verified"], before["exact"]) == (False, False)
        assert "compressed-diff-digest" not in layers[0]
        assert ocifs.run("store", "add", *options, "--tar-split", store, name).code == 0
        (after,) = json.loads(ocifs.output("store", "ls", "--json", store))["images"]
        assert (after["verified"], after["exact"]) == (True, True)
        verified = json.loads((store / "overlay-layers/layers.json").read_bytes())
        assert [each["id"] for each in verified] == [each["id"] for each in layers]
        assert all("compressed-diff-digest" in each for each in verified)
        assert ocifs.output("store", "check", store) == ""
