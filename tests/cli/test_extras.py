"""An installation without extras: what needs none works, and the rest names the missing extra in one sentence."""

import os
import pty
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from ocifs.errors import _EXTRAS, missing_extra
from tests.cli.command import Ocifs
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, tar

_BLOCK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"grpc", "pyfuse3", "rapidgzip", "textual", "trio"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
_NO_FUSE = "the fuse engine needs pyfuse3, which is not installed: pip install 'ocifs[fuse]'"
_PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def _bare(ocifs: Ocifs) -> Ocifs:
    """Hide the extras from every interpreter of the command, daemons included."""
    blocker = ocifs.home / "blocker"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(_BLOCK)
    paths = [str(blocker), *filter(None, [ocifs.environment.get("PYTHONPATH")])]
    return replace(ocifs, environment={**ocifs.environment, "PYTHONPATH": os.pathsep.join(paths)})


@pytest.fixture
def bare(ocifs: Ocifs) -> Ocifs:
    return _bare(ocifs)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_layout(
        tmp_path / "image", Image(layers=(Layer(tar([directory(b"./", mode=0o755), file(b"a", b"b")])),))
    )


def test_commands_that_do_not_mount_need_no_extra(bare: Ocifs, image: Path) -> None:
    assert bare.output("ls", image) == "a\n"
    assert bare.output("cat", image, "a") == "b"


def test_the_erofs_engine_needs_no_extra(bare: Ocifs, image: Path, root: None, erofs: None) -> None:
    with bare.mounted(image) as mountpoint:
        assert (mountpoint / "a").read_bytes() == b"b"
        assert "erofs" in bare.output("mounts")


def test_the_fuse_engine_names_its_extra(bare: Ocifs, image: Path, tmp_path: Path, fuse: None) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    for options in ([], ["--foreground"]):
        result = bare.run("mount", "--engine", "fuse", *options, image, mountpoint)
        assert (result.code, result.err) == (5, f"ocifs: {_NO_FUSE}\n")


def test_an_ordinary_user_also_learns_why_the_erofs_engine_cannot(user: Ocifs, image: Path, fuse: None) -> None:
    bare = _bare(user)
    copied = bare.home / "image"
    subprocess.run(["cp", "-r", image, copied], check=True)
    mountpoint = bare.home / "mnt"
    mountpoint.mkdir()
    os.chown(mountpoint, bare.home.stat().st_uid, -1)
    result = bare.run("mount", copied, mountpoint)
    assert result.code == 5
    assert result.err.startswith("ocifs: cannot mount EROFS: only root on the host can")
    assert result.err.endswith(f"; {_NO_FUSE}\n")
    assert result.err.count("\n") == 1


def test_explore_names_its_extra_before_it_indexes(bare: Ocifs, image: Path) -> None:
    outer, inner = pty.openpty()
    command = bare.command("explore", image)
    ran = subprocess.run(
        command, stdin=inner, stdout=inner, stderr=subprocess.PIPE, env=bare.variables(), check=False, text=True
    )
    os.close(inner)
    os.close(outer)
    said = "ocifs: ocifs explore needs textual, which is not installed: pip install 'ocifs[tui]'\n"
    assert (ran.returncode, ran.stderr) == (5, said)
    assert not list(bare.cache.glob("**/*.index"))


def test_the_snapshotter_names_its_extra(bare: Ocifs, root: None) -> None:
    assert bare.complaint(5, "snapshotter") == (
        "ocifs snapshotter needs grpc, which is not installed: pip install 'ocifs[containerd]'"
    )


def test_each_optional_dependency_is_in_the_extra_that_its_message_names() -> None:
    extras = tomllib.loads(_PYPROJECT.read_text())["project"]["optional-dependencies"]
    for module, (extra, _) in _EXTRAS.items():
        package = {"grpc": "grpcio"}.get(module, module)
        assert any(requirement.startswith(f"{package}>=") for requirement in extras[extra]), module
    everything = {name.strip() for name in extras["all"][0].removeprefix("ocifs[").rstrip("]").split(",")}
    assert everything == extras.keys() - {"all"}


def test_another_missing_module_is_no_missing_extra() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'click'", name="click")) is None
    assert missing_extra(ImportError("x.so: failed to map segment from shared object", name="pyfuse3")) is None
