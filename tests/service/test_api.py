"""Mounts from Python: the service of root keeps them, too."""

import subprocess
import sys
from pathlib import Path

from tests.service.running import Service
from tests.service.test_mounts import EXPECTED

_SCRIPT = """
import hashlib, sys
from pathlib import Path
import ocifs
from ocifs.mount.record import list_mounts

image, mountpoint = sys.argv[1:]
options = ocifs.Options(store=ocifs.Store(Path(__import__("os").environ["OCIFS_CACHE_DIR"])))
with ocifs.open(image, options) as opened:
    mount = opened.mount(mountpoint)
    (listed,) = [each for each in list_mounts() if each.mountpoint == mountpoint]
    print(mount.engine, listed.kept is not None)
    with mount as path:
        print(*(hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.iterdir())))
    print([each for each in list_mounts() if each.mountpoint == mountpoint])
"""


def test_a_mount_from_python_is_kept(service: Service) -> None:
    for never, kept in (("", True), ("1", False)):
        ran = subprocess.run(
            [sys.executable, "-c", _SCRIPT, service.image, service.ocifs.mountpoint()],
            env=service.ocifs.variables(OCIFS_NO_SERVICE=never),
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.splitlines() == [f"erofs {kept}", " ".join(EXPECTED), "[]"]
    assert service.mounts() == 0


def test_root_with_another_runtime_directory_sees_what_serves_a_mount(service: Service, tmp_path: Path) -> None:
    """The service is then found in the system's runtime directory, here one in a mount namespace."""
    other = service.ocifs.mountpoint()
    other.chmod(0o700)
    runtime = service.ocifs.runtime / "ocifs"
    command = " ".join(service.ocifs.command("mounts")[:2])
    main = "from ocifs.cli.main import main; main()"
    made = f"mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/ocifs && mount --bind {runtime} /run/ocifs"
    script = f"{made} && {command} '{main}' mounts"
    with service.mounted() as mountpoint:
        ran = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script],
            env=service.ocifs.variables(XDG_RUNTIME_DIR=str(other)),
            capture_output=True,
            text=True,
            check=True,
        )
        (line,) = [line for line in ran.stdout.splitlines() if line.startswith(f"{mountpoint} ")]
        assert line.split()[3] == str(service.worker(mountpoint))
