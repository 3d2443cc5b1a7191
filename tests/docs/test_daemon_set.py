"""The DaemonSet of docs/kubernetes: its script installs ocifs, as it is, below directories of the test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ocifs.version import __version__
from tests.depth import FULL

_ROOT = Path(__file__).parents[2]
_UNITS = Path("/etc/systemd/system")
_SYSTEMCTL = """\
#!/bin/sh
echo "$@" >>"$CALLS"
"""
_RUN = """
mount --bind "$1/opt" /opt
mount --bind "$1/units" /etc/systemd/system
exec sh -s <"$1/install.sh"
"""


def _documents() -> dict[str, dict]:  # type: ignore[type-arg] # as YAML has it
    text = (_ROOT / "docs/kubernetes/ocifs-node.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_it_installs_this_version() -> None:
    (install,) = _documents()["DaemonSet"]["spec"]["template"]["spec"]["initContainers"]
    assert install["env"] == [{"name": "VERSION", "value": __version__}]


@pytest.mark.skipif(not FULL, reason="downloads and builds packages of Python: scripts/test --full")
def test_the_script_installs_once_and_can_be_repeated(tmp_path: Path, root: None) -> None:
    """pip finds ocifs and its dependencies in a directory; systemctl is a script that notes how it is called."""
    if not _UNITS.is_dir():
        pytest.skip(f"{_UNITS} is missing")
    wheels, calls = tmp_path / "wheels", tmp_path / "calls"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheels), "-c", "constraints.txt"]
    subprocess.run([*build, ".[containerd,fast,metrics]"], cwd=_ROOT, check=True)
    for made in ("opt", "units", "bin"):
        (tmp_path / made).mkdir()
    (tmp_path / "bin/systemctl").write_text(_SYSTEMCTL)
    (tmp_path / "bin/systemctl").chmod(0o755)
    (tmp_path / "install.sh").write_text(_documents()["ConfigMap"]["data"]["install.sh"])
    environment = {
        "PATH": f"{tmp_path}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path), "CALLS": str(calls),
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels),
    }  # fmt: skip

    def install(version: str = __version__) -> tuple[bool, list[str]]:
        """Return whether it succeeds, and the calls of systemctl."""
        calls.write_text("")
        command = ["unshare", "--mount", "--propagation=private", "sh", "-ec", _RUN, "sh", str(tmp_path)]
        ran = subprocess.run(
            command, env=environment | {"VERSION": version}, stdin=subprocess.DEVNULL, check=False
        )  # fmt: skip
        return ran.returncode == 0, calls.read_text().splitlines()

    always = ["daemon-reload", "enable --now ocifs ocifs-snapshotter"]
    assert install() == (True, [*always, "reload ocifs", "restart ocifs-snapshotter"])
    for name, command in (("ocifs", "service"), ("ocifs-snapshotter", "snapshotter")):
        assert f"ExecStart=/opt/ocifs/bin/ocifs {command}" in (tmp_path / f"units/{name}.service").read_text()
    installed = os.stat(tmp_path / "opt/ocifs/bin/ocifs")
    assert install() == (True, always)
    assert install("99.0") == (False, [])  # pip finds no such version
    assert os.stat(tmp_path / "opt/ocifs/bin/ocifs") == installed
