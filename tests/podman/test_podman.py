"""podman runs images of a store, and can do with them whatever it can do with pulled images."""

import gzip
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.depth import FULL
from tests.images import Image, config_of, digest, layout_files, to_json, write_layout
from tests.podman.conftest import APP, LOWER, PROGRAMS, SIBLING, Podman, with_layer
from tests.registry import Registry
from tests.tocs import estargz

NAME = "localhost/app"
TREE = "cat /etc/twice /srv/old/* /srv/link /etc/through; test -e /etc/secret || echo no secret"
CONTENT = "second\nnew\nshared\nthrough\nno secret\n"
_SLOW = pytest.mark.skipif(not FULL, reason="podman takes minutes for all of its tests: scripts/test --full")


@contextmanager
def container(podman: Podman, *options: str) -> Iterator[str]:
    """Run a container in the background; yield its ID."""
    identity = podman.output("run", "--detach", *options, NAME, "/bin/sleep", "1000").strip()
    try:
        yield identity
    finally:
        podman.output("rm", "--force", "--time", "0", identity)


def test_the_image_is_listed_and_runs(podman: Podman) -> None:
    assert podman.output("images", "--format", "{{.Names}} {{.ReadOnly}}") == "[localhost/app:latest] true\n"
    assert podman.output("run", "--rm", NAME) == "started by the image\n"
    assert podman.sh(NAME, TREE) == CONTENT
    assert podman.layers() == set()


def test_a_container_writes_and_its_changes_become_an_image(podman: Podman) -> None:
    podman.output("run", "--name", "changed", NAME, "/bin/sh", "-c", "echo new >/srv/kept; echo own >/srv/own")
    changes = podman.output("diff", "changed").splitlines()
    assert sorted(each for each in changes if "/srv" in each) == ["A /srv/own", "C /srv", "C /srv/kept"]
    podman.output("commit", "--quiet", "changed", "localhost/changed")
    podman.output("rm", "changed")
    assert podman.sh("localhost/changed", "cat /srv/kept /srv/own /srv/old/new") == "new\nown\nnew\n"
    podman.output("rmi", "localhost/changed")
    assert podman.sh(NAME, "cat /srv/kept") == "kept\n"


@_SLOW
def test_build(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text(
        f'FROM {NAME}\nRUN ["/bin/sh", "-c", "cat /srv/kept /srv/old/new >/srv/built"]\n'
    )
    podman.output("build", "--quiet", "--network", "none", "--tag", "localhost/built", str(tmp_path))
    assert podman.sh("localhost/built", "cat /srv/built") == "kept\nnew\n"
    podman.output("rmi", "localhost/built")


@pytest.mark.parametrize("options", [["--uidmap", "0:100000:65536"]])
def test_a_user_namespace_maps_the_owners(podman: Podman, options: list[str]) -> None:
    script = "stat -c '%u:%g' /srv/kept /srv/link /data/seed; echo >/srv/own && stat -c %u /srv/own"
    assert podman.sh(NAME, script, *options) == "0:0\n33:33\n33:4\n0\n"


@_SLOW
def test_a_user_namespace_is_as_large_as_the_owners_need(podman: Podman, tmp_path: Path) -> None:
    inside = podman.with_subordinate_ids(tmp_path / "subids")
    script = "cat /proc/self/uid_map; stat -c '%u:%g' /data/seed"
    first, owner, _ = inside.sh(NAME, script, "--userns=auto").split("\n")
    assert first.split() == ["0", "300000", "1024"]
    assert owner == "33:4"


def test_a_volume_is_seeded(podman: Podman) -> None:
    script = "cat /data/seed && stat -c '%u:%g %a' /data/seed"
    assert podman.sh(NAME, script, "--volume", "seeded:/data") == "seed\n33:4 600\n"
    podman.output("volume", "rm", "seeded")


def test_a_push_has_exactly_the_layers(podman: Podman, tmp_path: Path) -> None:
    podman.output("push", "--quiet", NAME, f"dir:{tmp_path}/pushed")
    manifest = json.loads((tmp_path / "pushed" / "manifest.json").read_bytes())
    assert manifest["config"]["digest"] == digest(to_json(config_of(APP)))
    stored = [(tmp_path / "pushed" / layer["digest"][7:]).read_bytes() for layer in manifest["layers"]]
    assert stored == [layer.tar for layer in APP.layers]


@_SLOW
def test_a_saved_archive_has_exactly_the_layers(podman: Podman, ocifs: Ocifs, tmp_path: Path) -> None:
    podman.output("save", "--quiet", "--format", "oci-archive", "--output", str(tmp_path / "saved.tar"), NAME)
    with tarfile.open(tmp_path / "saved.tar") as archive:
        documents = {each.name: archive.extractfile(each).read() for each in archive if each.isfile()}  # type: ignore[union-attr]
    manifest = json.loads(documents[_path(json.loads(documents["index.json"])["manifests"][0])])
    assert [gzip.decompress(documents[_path(layer)]) for layer in manifest["layers"]] == [
        layer.tar for layer in APP.layers
    ]
    assert ocifs.run("verify", f"oci-archive:{tmp_path}/saved.tar").code == 0


def _path(descriptor: dict[str, str]) -> str:
    return f"blobs/{descriptor['digest'].replace(':', '/')}"


def test_a_pulled_sibling_shares_the_layers_and_has_their_content(podman: Podman, tmp_path: Path) -> None:
    """Layers without content, or with the content of a merged tree, would make it an empty or a wrong image."""
    write_layout(tmp_path / "sibling", with_layer(SIBLING))
    podman.output("pull", "--quiet", f"oci:{tmp_path}/sibling:latest")
    sibling = digest(to_json(config_of(with_layer(SIBLING))))[7:]
    assert len(podman.layers()) == 1
    assert podman.sh(sibling, f"cat /srv/sibling; {TREE}") == f"sibling\n{CONTENT}"
    podman.output("rmi", sibling)


def test_a_sibling_with_one_of_the_layers_on_others_has_its_content(podman: Podman, tmp_path: Path) -> None:
    """podman finds the layer by its digest, and makes its tar again, since it has other parents."""
    other = Image((PROGRAMS.layers[0], SIBLING, LOWER), config=PROGRAMS.config)
    write_layout(tmp_path / "other", other)
    podman.output("pull", "--quiet", f"oci:{tmp_path}/other:latest")
    identity = digest(to_json(config_of(other)))[7:]
    assert podman.sh(identity, "cat /srv/sibling /srv/kept /srv/old/gone") == "sibling\nkept\ngone\n"
    podman.output("push", "--quiet", identity, f"dir:{tmp_path}/pushed")
    assert (tmp_path / "pushed" / digest(LOWER.tar)[7:]).exists()
    podman.output("rmi", identity)


@_SLOW
def test_images_are_added_and_removed_while_containers_run(
    podman: Podman, ocifs: Ocifs, store: Path, tmp_path: Path
) -> None:
    more = write_layout(tmp_path / "more", with_layer(SIBLING))
    with container(podman) as running:
        ocifs.run("store", "add", store, more)
        assert podman.output("exec", running, "/bin/cat", "/srv/old/new", "/etc/twice") == "new\nsecond\n"
        assert podman.sh("localhost/more", f"cat /srv/sibling; {TREE}") == f"sibling\n{CONTENT}"
        assert ocifs.run("store", "rm", store, "more").code == 0
        assert podman.output("exec", running, "/bin/cat", "/srv/kept") == "kept\n"
        assert podman.output("images", "--format", "{{.Names}}") == "[localhost/app:latest]\n"
    assert podman.sh(NAME, TREE) == CONTENT


@_SLOW
def test_running_containers_outlive_an_unmount(podman: Podman, ocifs: Ocifs, store: Path) -> None:
    with container(podman) as running:
        ocifs.output("store", "umount", store)
        assert podman.output("exec", running, "/bin/cat", "/srv/kept", "/srv/link") == "kept\nshared\n"
        assert podman.run("run", "--rm", NAME).returncode == 125
        assert podman.output("images", "--format", "{{.Names}}") == "[localhost/app:latest]\n"
        ocifs.output("store", "mount", store)
        assert podman.output("run", "--rm", NAME) == "started by the image\n"
        assert podman.output("exec", running, "/bin/cat", "/srv/kept") == "kept\n"


def test_after_the_end_of_the_daemon_a_mount_heals_it(podman: Podman, ocifs: Ocifs, store: Path) -> None:
    listed = json.loads(ocifs.output("mounts", "--json"))
    (mount,) = [each for each in listed if each["pid"] and each["state"] == "mounted"]
    assert mount["image"] == f"{store} (1 image)"
    subprocess.run(["kill", "-KILL", str(mount["pid"])], check=True)
    checked = ocifs.run("store", "check", store)
    assert checked.code == 1
    assert checked.text in {"the store is dead\n", "the store is not mounted\n"}
    ocifs.output("store", "mount", store)
    assert podman.sh(NAME, TREE) == CONTENT
    assert ocifs.output("store", "check", store) == ""


def test_the_fuse_engine(podman: Podman, ocifs: Ocifs, store: Path) -> None:
    ocifs.output("store", "umount", store)
    ocifs.output("store", "mount", "--engine", "fuse", store)
    try:
        with container(podman) as running:
            assert podman.output("exec", running, "/bin/cat", "/srv/old/new", "/etc/twice") == "new\nsecond\n"
            assert podman.sh(NAME, TREE) == CONTENT
    finally:
        ocifs.output("store", "umount", store)
        ocifs.output("store", "mount", store)


@pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is missing")
def test_buildah(podman: Podman) -> None:
    for arguments, printed in (
        (["from", "--name", "working", NAME], "working\n"),
        (["run", "--isolation", "chroot", "working", "/bin/cat", "/srv/old/new"], "new\n"),
        (["rm", "working"], None),
    ):
        ran = podman.run(*arguments, program="buildah")
        assert ran.returncode == 0, ran
        assert printed in {None, ran.stdout}


@_SLOW
def test_skopeo_copies_the_layers(podman: Podman, tmp_path: Path) -> None:
    copied = podman.run(
        "copy", "--insecure-policy", f"containers-storage:{NAME}", f"dir:{tmp_path}/copied", program="skopeo"
    )
    assert copied.returncode == 0, copied
    manifest = json.loads((tmp_path / "copied" / "manifest.json").read_bytes())
    assert [layer["digest"] for layer in manifest["layers"]] == [digest(layer.tar) for layer in APP.layers]


def add_lazily(ocifs: Ocifs, store: Path, image: str) -> dict[str, object]:
    """Add an image that is not fetched; return how the store lists it."""
    ocifs.run("store", "add", "--no-prefetch", "--tls-verify=false", store, image)
    listed = json.loads(ocifs.output("store", "ls", "--json", store))["images"]
    (found,) = [dict(each) for each in listed if image.partition("://")[2].partition(":")[0] in str(each["names"])]
    return found


def test_a_lazy_image_runs_and_only_verified_layers_serve_others(
    podman: Podman, ocifs: Ocifs, store: Path, registry: Registry, tmp_path: Path
) -> None:
    """A registry publishes a false TOC for a layer of other images: only its own image may show that content."""

    def lie(toc: dict[str, object]) -> None:
        (entry,) = [each for each in toc["entries"] if each["name"] == "srv/kept"]  # type: ignore[attr-defined]
        entry["name"] = "srv/lie"

    honest = Image((PROGRAMS.layers[0], LOWER), config=PROGRAMS.config)
    lying = estargz(LOWER.tar, alter=lie)
    registry.add(
        "lie", layout_files(Image((estargz(PROGRAMS.layers[0].tar), lying), config={**PROGRAMS.config, "author": "x"}))
    )
    found = add_lazily(ocifs, store, f"docker://{registry.host}/lie:latest")
    name = f"{registry.host}/lie"
    assert (found["verified"], found["exact"]) == (False, False)
    assert podman.sh(name, "cat /srv/lie") == "kept\n"
    refused = podman.run("push", "--quiet", name, f"dir:{tmp_path}/pushed")
    assert (refused.returncode, "Digest did not match" in refused.stderr) == (125, True), refused
    before = podman.layers()
    write_layout(tmp_path / "honest", honest)
    podman.output("pull", "--quiet", f"oci:{tmp_path}/honest:latest")
    identity = digest(to_json(config_of(honest)))[7:]
    assert podman.sh(identity, "cat /srv/kept; test -e /srv/lie || echo no lie") == "kept\nno lie\n"
    assert podman.layers() == before
    podman.output("rmi", identity)
    assert ocifs.run("store", "rm", store, name).code == 0
