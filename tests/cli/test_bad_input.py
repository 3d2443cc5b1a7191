"""Bad input: one line that names the thing and the way out, the documented exit code, and nothing left behind."""

import gzip
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import LAYER, Files, Image, Layer, layout_files, write_directory, write_layout
from tests.tars import file, hardlink, tar

_TAR = tar([file(b"f", random.Random(1).randbytes(100_000))])
_LAYER = Layer(_TAR)
_ZEROS = "sha256:" + "0" * 64


def _layer_path(files: Files) -> str:
    return max((name for name in files if name.startswith("blobs/")), key=lambda name: len(files[name]))


def _remove_layer(files: Files) -> None:
    del files[_layer_path(files)]


def _truncate_layer(files: Files) -> None:
    files[_layer_path(files)] = files[_layer_path(files)][:50_000]


def _flip_a_bit(files: Files) -> None:
    damaged = bytearray(files[_layer_path(files)])
    damaged[5000] ^= 1
    files[_layer_path(files)] = bytes(damaged)


def _damage_index(files: Files) -> None:
    files["index.json"] = b"{"


def _nothing(files: Files) -> None:
    """Leave the files as they are."""


@dataclass(frozen=True)
class Bad:
    """An image that cannot be mounted, and how that is said."""

    code: int
    says: str
    layer: Layer = _LAYER
    damage: Callable[[Files], object] = _nothing
    suffix: str = ""


def _typed(media_type: str) -> Layer:
    return Layer(_TAR, descriptor={"mediaType": media_type})


_IMAGES = {
    "unknown tag": Bad(3, "choose one of :latest", suffix=":unknown"),
    "unknown digest": Bad(3, "choose one of :latest", suffix=f"@{_ZEROS}"),
    "malformed digest": Bad(4, "sha256:zz", suffix="@sha256:zz"),
    "missing blob": Bad(3, "copy the image again", damage=_remove_layer),
    "truncated blob": Bad(4, "has 50000 bytes", damage=_truncate_layer),
    "wrong digest": Bad(4, "layer sha256:", damage=_flip_a_bit),
    "wrong size": Bad(4, "its descriptor says 5", Layer(_TAR, descriptor={"size": 5})),
    "wrong diff ID": Bad(4, _ZEROS, Layer(_TAR, diff_id=_ZEROS)),
    "wrong media type": Bad(5, "application/x-unknown", _typed("application/x-unknown")),
    "a page of HTML": Bad(4, "its uncompressed bytes are HTML, not a tar", Layer(b"<!DOCTYPE html><p>", "tar")),
    "unsupported compression": Bad(5, "+bzip2", _typed(f"{LAYER}+bzip2")),
    "encryption": Bad(5, "decrypt the image first", _typed(f"{LAYER}+gzip+encrypted")),
    "no tar": Bad(4, "bytes are text, not a tar", Layer(b"garbage" * 1000)),
    "neither text nor tar": Bad(4, "tar entry", Layer(b"\x80" * 1000)),
    "hard link to nothing": Bad(4, "'nothing'", Layer(tar([hardlink(b"link", b"nothing")]))),
    "control characters": Bad(4, r"\x1b[31m", Layer(tar([hardlink(b"\x1b[31m\n", b"nothing")]))),
    "damaged index.json": Bad(4, "index.json is not valid JSON", damage=_damage_index),
    "no oci-layout": Bad(4, "is not an OCI layout", damage=lambda files: files.pop("oci-layout")),
    "no index.json": Bad(3, "has no index.json", damage=lambda files: files.pop("index.json")),
}


@pytest.mark.parametrize("what", _IMAGES)
def test_bad_image(ocifs: Ocifs, tmp_path: Path, what: str, fuse: None) -> None:
    bad = _IMAGES[what]
    files = layout_files(Image(layers=(bad.layer,)))
    bad.damage(files)
    image = write_directory(tmp_path / "image", files)
    mountpoint = ocifs.mountpoint()
    complaint = ocifs.complaint(bad.code, "mount", f"{image}{bad.suffix}", mountpoint)
    assert bad.says in complaint
    assert complaint.isprintable()
    assert list(mountpoint.iterdir()) == []
    assert list(ocifs.cache.glob("entries/*.tmp")) == []
    assert ocifs.complaint(bad.code, "ls", f"{image}{bad.suffix}") == complaint


@pytest.mark.parametrize(
    ("reference", "code", "says"),
    [
        ("./nothing:tag", 3, "'./nothing'"),
        ("oci:nothing", 3, "'nothing'"),
        ("", 3, "no such file"),
        ("docker://Image", 4, "malformed name of an image in a registry"),
        ("ostree:image@/repo", 5, "skopeo copy"),
        ("a\x1b[31mb", 3, r"a\x1b[31mb"),
        ("/dev/null", 5, "/dev/null is not a regular file"),
        ("/", 4, "is not an OCI layout"),
    ],
)
def test_bad_reference(ocifs: Ocifs, reference: str, code: int, says: str) -> None:
    complaint = ocifs.complaint(code, "ls", reference)
    assert says in complaint
    assert complaint.isprintable()


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["cat", "IMAGE", "absent"], 3, "absent: no such file"),
        (["cat", "IMAGE", "/"], 3, "/: is a directory"),
        (["cat", "IMAGE", "null"], 3, "null: not a regular file"),
        (["ls", "IMAGE", "file/"], 3, "file/: Not a directory"),
        (["ls", "IMAGE", "absent\x1b"], 3, r"absent\x1b: no such file"),
        (["stat", "IMAGE", "file/below"], 3, "file/below: Not a directory"),
        (["umount", "HOME"], 7, "is not an ocifs mount"),
        (["umount", "HOME/absent"], 7, "is not an ocifs mount"),
        (["umount", "/proc"], 7, "is not an ocifs mount"),
        (["umount", ""], 7, "name a directory"),
    ],
)
def test_bad_arguments(ocifs: Ocifs, demo: Path, command: list[str], code: int, says: str) -> None:
    places = {"IMAGE": str(demo)}
    arguments = [places.get(each, each).replace("HOME", str(ocifs.home)) for each in command]
    assert says in ocifs.complaint(code, *arguments)


def test_an_image_without_layers(ocifs: Ocifs, tmp_path: Path, fuse: None) -> None:
    """It is an empty tree; there is nothing to run in it."""
    image = write_layout(tmp_path / "empty", Image(layers=()))
    with ocifs.mounted(image) as mountpoint:
        assert list(mountpoint.iterdir()) == []
    assert ocifs.output("find", image) == "/\n"
    assert "names no command to run" in ocifs.complaint(3, "run", image)
    assert "is not a directory in the image" in ocifs.complaint(5, "run", "--read-only", image, "x")


def _absent(home: Path, image: Path) -> Path:
    return home / "absent"


def _filled(home: Path, image: Path) -> Path:
    (home / "filled").mkdir()
    (home / "filled/file").touch()
    return home / "filled"


def _file(home: Path, image: Path) -> Path:
    (home / "file").touch()
    return home / "file"


def _in_the_cache(home: Path, image: Path) -> Path:
    (home / "cache/ocifs/inside").mkdir(mode=0o700, parents=True)
    return home / "cache/ocifs/inside"


def _loop(home: Path, image: Path) -> Path:
    (home / "loop").symlink_to("loop")
    return home / "loop"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (_absent, "does not exist: make the directory first"),
        (_filled, "is not empty: choose an empty directory"),
        (_file, "is not a directory"),
        (_in_the_cache, "lies in the cache"),
        (_loop, "Too many levels of symbolic links"),
        (lambda home, image: image, "would hide the image"),
        (lambda home, image: image.parent, "would hide the image"),
        (lambda home, image: home, "would hide the cache"),
        (lambda home, image: Path("/proc"), "is already a mountpoint (proc)"),
        (lambda home, image: "", "name a directory"),
    ],
)
def test_bad_mountpoint(
    ocifs: Ocifs, demo: Path, fuse: None, place: Callable[[Path, Path], Path | str], says: str
) -> None:
    mountpoint = place(ocifs.home, demo)
    complaint = ocifs.complaint(7, "mount", demo, mountpoint)
    assert says in complaint
    assert str(mountpoint) in complaint


def test_what_is_mounted_already(ocifs: Ocifs, demo: Path, fuse: None) -> None:
    with ocifs.mounted(demo, "--engine", "fuse") as mountpoint:
        result = ocifs.run("mount", demo, mountpoint)
        assert (result.code, result.out) == (7, b"")
        way_out = f"`ocifs umount {mountpoint}` first, or use --replace"
        assert result.err == f"ocifs: {mountpoint} is already a mountpoint (fuse.ocifs): {way_out}\n"
        assert len(ocifs.mounts()) == 1


@pytest.mark.parametrize("where", ["cache", "log", "current directory", "runtime directory", "image"])
def test_what_is_needed_may_not_lie_below_the_mountpoint(
    ocifs: Ocifs, demo: Path, fuse: None, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through symlinks as well: the daemon would wait for itself."""
    mountpoint = ocifs.mountpoint()
    link = ocifs.home / "link"
    link.symlink_to(mountpoint)
    options: list[Path | str] = []
    there = ocifs
    image = demo
    match where:
        case "cache":
            options = ["--cache-dir", link / "cache"]
        case "log":
            options = ["--log", link / "log"]
        case "current directory":
            there = replace(ocifs, become=("env", "-C", str(link)))
        case "runtime directory":
            there = replace(ocifs, environment={"XDG_RUNTIME_DIR": str(link)})
        case "image":
            (mountpoint / "image").mkdir()
            image = link / "image"
    complaint = there.complaint(7, "mount", *options, image, mountpoint)
    assert f"would hide the {where}" in complaint


def test_a_log_that_the_mount_would_hide(ocifs: Ocifs, demo: Path, fuse: None) -> None:
    mountpoint = ocifs.mountpoint()
    assert "would hide the log" in ocifs.complaint(7, "mount", "--log", mountpoint / "log", demo, mountpoint)


def test_no_dev_fuse(ocifs: Ocifs, demo: Path, root: None) -> None:
    bare = replace(ocifs, become=("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev && exec "$@"', "sh"))
    assert bare.complaint(7, "mount", demo, ocifs.mountpoint()) == (
        "/dev/fuse is missing: load the kernel module with `modprobe fuse`"
    )


def test_no_fusermount3(user: Ocifs, fuse: None) -> None:
    image = write_layout(user.home / "image", Image())
    bare = replace(user, become=(*user.become, "PATH=/nonexistent"))
    assert bare.complaint(7, "mount", image, user.mountpoint()) == (
        "fusermount3 is missing: install the Debian package fuse3"
    )


def test_a_runtime_directory_of_another_user(ocifs: Ocifs, demo: Path, fuse: None) -> None:
    (ocifs.runtime / "ocifs").mkdir()
    (ocifs.runtime / "ocifs").chmod(0o777)
    assert "set XDG_RUNTIME_DIR" in ocifs.complaint(7, "mount", demo, ocifs.mountpoint())


def test_a_log_that_cannot_be_written(ocifs: Ocifs, demo: Path, fuse: None) -> None:
    log = ocifs.home / "absent/log"
    assert str(log) in ocifs.complaint(7, "mount", "--log", log, demo, ocifs.mountpoint())


class _Cut(Layer):
    """A gzip layer that lacks its last three bytes."""

    @property
    def blob(self) -> bytes:
        return gzip.compress(self.tar, 1, mtime=0)[:-3]


@pytest.mark.parametrize("size", [3 << 20, 17 << 20], ids=["small", "worth a process"])
@pytest.mark.parametrize("command", ["ls", "index", "verify"])
def test_what_a_decoder_writes_stays_off_the_terminal(ocifs: Ocifs, tmp_path: Path, size: int, command: str) -> None:
    """Of some blobs that are cut, rapidgzip says so on standard error by itself."""
    noise = random.Random(1).randbytes(size)
    image = write_layout(
        tmp_path / "image", Image((_Cut(tar([file(b"noise", noise), file(b"zeros", bytes(3 << 20))])),))
    )
    ran = ocifs.run(command, image)
    assert ran.code == 4
    assert "the gzip stream is truncated: fetch or build the image again" in ran.text + ran.err
    assert all(line.startswith("ocifs: ") for line in ran.err.splitlines())


def test_what_a_user_may_not_look_at_is_not_called_missing(user: Ocifs) -> None:
    hidden = user.home / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "image").mkdir()
    hidden.chmod(0)
    try:
        assert user.complaint(3, "ls", f"{hidden}/image:latest") == f"cannot open '{hidden}/image': Permission denied"
        assert user.complaint(7, "umount", hidden / "mountpoint") == f"{hidden}/mountpoint: Permission denied"
    finally:
        hidden.chmod(0o700)
