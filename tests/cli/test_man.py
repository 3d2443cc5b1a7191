"""The man pages: one for each command, valid roff, with what the help leaves out."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ocifs.cli.man import pages, write_pages
from ocifs.cli.verbs import VERBS

_IMPORTS = """
import builtins, sys
allowed = sys.stdlib_module_names | set(sys.argv[1:]) | {"ocifs", "typing_extensions"}
original = builtins.__import__
def only(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and name.partition(".")[0] not in allowed:
        caller = (globals or {}).get("__name__", "")
        if caller.partition(".")[0] == "ocifs":
            raise ImportError(f"{caller} imports {name}")
    return original(name, globals, locals, fromlist, level)
builtins.__import__ = only
from ocifs.cli.man import pages
print(len(list(pages())))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man") / "man1"
    write_pages(directory)
    return directory


def test_every_command_has_a_page(written: Path) -> None:
    names = {path.name for path in written.iterdir()}
    assert {f"ocifs-{name}.1" for verbs in VERBS.values() for name in verbs} < names
    assert {"ocifs.1", "ocifs-index-push.1", "ocifs-cache-prune.1"} < names
    assert "ocifs-which.1" not in names


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is missing (Debian package groff-base)")
def test_the_pages_are_valid(written: Path, tmp_path: Path) -> None:

    def warnings(*paths: Path) -> str:
        command = ["groff", "-man", "-ww", "-z", "-K", "utf8", "-T", "utf8", *map(str, paths)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr

    (tmp_path / "broken").write_text((written / "ocifs.1").read_text() + ".NO_SUCH_MACRO\n")
    assert "NO_SUCH_MACRO" in warnings(tmp_path / "broken")
    assert warnings(*sorted(written.iterdir())) == ""


def test_a_page_has_the_details_that_the_help_leaves_out(written: Path) -> None:
    page = (written / "ocifs-mount.1").read_text()
    assert "ocifs\\-mount \\- mount an image\n" in page
    for heading in ("OPTIONS", "REGISTRY, CACHE AND LIMITS", "ENVIRONMENT", "EXAMPLES", "SEE ALSO"):
        assert f"\n.SH {heading}\n" in page
    assert "\nThe command returns once the mount answers." in page
    assert "\n.TP\n\\fB\\-\\-engine\\fR auto|erofs|fuse\n" in page
    assert "fuse: the daemon serves names and bytes, for any user." in page
    assert "\nocifs mount ./debian:latest /mnt\n" in page
    assert "\b" not in page
    assert "\f" not in page


def test_the_page_of_ocifs_lists_commands_references_and_limits(written: Path) -> None:
    page = (written / "ocifs.1").read_text()
    for heading in VERBS:
        assert f"\n.SS {heading}\n" in page
    assert "\n.TP\n\\fBentries=5000000\\fR\nEntries of a layer.\n" in page
    assert "oci\\-archive:FILE[:TAG]" in page


def test_the_same_version_yields_the_same_pages(written: Path) -> None:
    assert dict(pages()) == {path.name: path.read_text() for path in written.iterdir()}


def test_the_build_of_a_wheel_has_all_modules_that_the_pages_need() -> None:
    """An isolated build installs only these."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    needs = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["dependencies"]
    assert set(needs) <= set(project["project"]["dependencies"])
    modules = [need.partition(">")[0].replace("-", "_") for need in needs]
    subprocess.run([sys.executable, "-c", _IMPORTS, *modules], check=True, capture_output=True)
