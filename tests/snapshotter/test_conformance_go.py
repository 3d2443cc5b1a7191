"""containerd's own suite for snapshotters, on directories and on the merged mount of an image without files."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from ocifs.options import Options
from ocifs.store import Store
from tests.conftest import _USER_CACHE
from tests.images import Image, Layer
from tests.registry import Registry
from tests.snapshotter.client import running
from tests.snapshotter.pulling import Containerd, publish
from tests.tars import directory, tar

SUITE = Path(os.environ.get("OCIFS_DEBIAN_IMAGE") or _USER_CACHE / "ocifs-tests/debian").parent / "conformance-suite"
_TESTS = 20


@pytest.mark.parametrize(("engine", "based"), [("erofs", True), ("fuse", True), ("fuse", False)], indirect=["engine"])
def test_the_suite_of_containerd_passes(
    registry: Registry, tmp_path: Path, root: None, engine: str, based: bool
) -> None:
    """All snapshots lie on an image if they are `based`: the suite has no images. Else it runs as it is."""
    if not SUITE.exists():
        pytest.skip(f"{SUITE} is missing: make it with scripts/make-conformance-suite (golang-go)")
    with running(tmp_path, Options(store=Store(tmp_path / "cache")), engine=engine) as snapshotter:
        image = publish(registry, "empty", Image((Layer(tar([directory(b"./")])),)))
        containerd = Containerd(snapshotter.client, tmp_path)
        base = ""
        if based:
            assert containerd.pull(image) == ["lazy"]
            base = containerd.names[image.chains[0]]
        variables = {"OCIFS_SOCKET": str(snapshotter.settings.address), "OCIFS_BASE": base}
        ran = subprocess.run(
            [SUITE, "-test.v", "-test.root"],
            env=os.environ | variables | {"TMPDIR": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    results = re.findall(r"--- (\w+): TestSnapshotter/\w+", ran.stdout)
    assert (ran.returncode, results.count("PASS"), results.count("FAIL")) == (0, _TESTS, 0), ran.stdout[-10000:]
