"""An image in a program: opening, layers, threads, closing, mounting."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ocifs
from tests.cli.command import Ocifs
from tests.images import Image, Layer, tar, write_layout

_LAYERS = (
    Layer(tar({"etc/motd": b"base\n", "etc/gone": b"gone\n"})),
    Layer(tar({"etc/motd": b"top\n", "etc/.wh.gone": b""})),
)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """An image of two layers."""
    return write_layout(tmp_path / "two", Image(layers=_LAYERS))


def test_an_image_opens_by_reference(two: Path) -> None:
    with ocifs.open(f"{two}:latest") as image:
        assert isinstance(image, ocifs.Image)
        assert (image / "etc/motd").read_text() == "top\n"
        assert image.root == image / "/"
        assert not (image.at_layer(-1) / "etc/gone").exists()
        assert (image.at_layer(0) / "etc/gone").read_text() == "gone\n"
        assert (ocifs.ImagePath(image.as_of(0), "etc", "motd")).read_text() == "base\n"
        assert image.at_layer(0) / "etc" != image / "etc"
    with ocifs.open_image(two, ocifs.Options(layer=0)) as image:
        assert (image / "etc/motd").read_text() == "base\n"


def test_importing_the_api_is_light() -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "import ocifs\n"
        "assert ocifs.__version__\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))\n"
        "ocifs.open\n"
        "heavy = {'click', 'fsspec', 'jinja2', 'pyfuse3', 'rich', 'textual', 'trio', 'urllib3'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules, heavy = ran.stdout.splitlines()
    assert set(modules.split()) <= {"ocifs", "typing"} | set(sys.stdlib_module_names)
    assert heavy == ""


def test_all_public_names_exist() -> None:
    for name in ocifs.__all__:
        assert getattr(ocifs, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ocifs.nothing


def test_several_threads_use_one_image(two: Path) -> None:
    many: dict[str, bytes | None] = {f"d/{number}": bytes([number]) * 70_000 for number in range(40)}
    layout = write_layout(two.parent / "many", Image(layers=(*_LAYERS, Layer(tar(many)))))
    together = threading.Barrier(8)

    def use(worker: int) -> bool:
        together.wait()
        trees = [image.at_layer(number % 3) for number in range(worker, worker + 3)]
        changes = [image.changes(number) for number in (2, 0, 1)]
        files = {str(path)[1:]: path.read_bytes() for path in image.root.glob("d/*")}
        return files == many and all((tree / "etc/motd").exists() for tree in trees) and len(changes) == 3

    with ocifs.open(layout, ocifs.Options(span_cache=0)) as image, ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(8)))
        assert image.as_of(0) is image.as_of(0)


def test_a_closed_image_refuses_to_be_used(two: Path) -> None:
    image = ocifs.open(two)
    path = image / "etc/motd"
    file, raw = path.open(), path.open("rb", 0)
    states = [image.closed]
    for _ in range(2):  # again does nothing
        image.close()
        states.append(image.closed)
    assert states == [False, True, True]
    for use in (path.stat, path.read_bytes, path.exists, path.readlink, path.resolve, file.read, raw.readall):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(ValueError, match="closed"):
        next(image.root.iterdir())
    assert str(path) == "/etc/motd"


_MOUNTING = """
import sys
from pathlib import Path
import ocifs

layout, mountpoint, engine = sys.argv[1:]
options = ocifs.MountOptions(engine=engine)
mounted = lambda: Path(mountpoint).is_mount()
with ocifs.open(layout) as image:
    with image.mount(mountpoint, options) as path:
        assert path == Path(mountpoint) and mounted()
        assert (path / "etc/motd").read_text() == "top\\n"
        try:
            image.mount(mountpoint, options)
        except ocifs.OcifsError as error:
            assert "already a mountpoint" in str(error), error
    assert not mounted()

    try:
        with image.mount(mountpoint, options) as path:
            left_open = (path / "etc/motd").open()
            raise KeyError("of the block")
    except KeyError:
        assert not mounted()  # detached, although a file is open in it
    assert left_open.read() == "top\\n"
    left_open.close()

    mount = image.mount(mountpoint, options)
    busy = open(f"{mountpoint}/etc/motd")
    try:
        mount.unmount()
    except ocifs.OcifsError as error:
        assert "is in use" in str(error) and mount.mounted and mounted(), error
    else:
        raise AssertionError
    busy.close()
assert mounted()  # it does not need the image
assert mount.engine == engine
mount.unmount()
mount.unmount()  # again does nothing
assert not mount.mounted and not mounted()
"""


def test_an_image_is_mounted_for_a_block(two: Path, ocifs: Ocifs, engine: str) -> None:
    command = [sys.executable, "-W", "error", "-c", _MOUNTING, str(two), str(ocifs.mountpoint()), engine]
    ran = subprocess.run(command, env=ocifs.variables(), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_mount_must_not_hide_what_it_needs(two: Path, ocifs: Ocifs, fuse: None) -> None:
    script = "import sys, ocifs; ocifs.open(sys.argv[1]).mount(sys.argv[1])"
    ran = subprocess.run(
        [sys.executable, "-c", script, str(two)], env=ocifs.variables(), capture_output=True, text=True, check=False
    )
    assert "MountError" in ran.stderr
    assert f"would hide the image {two}" in ran.stderr
