"""A machine that boots systemd in systemd-nspawn, for `scripts/test --full`.

debootstrap makes it, in minutes. OCIFS_TEST_MACHINE may name the root directory of one that exists, a Debian with the
packages below.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
_PACKAGES = "systemd,systemd-sysv,dbus,fuse3,mount,util-linux,python3,libssl3,libffi8,libsqlite3-0,libreadline8,runc"

_CHECK_UNIT = """
[Service]
Type=oneshot
ExecStart=/bin/bash /checks
ExecStopPost=/bin/sh -c "systemctl poweroff --no-block -ff >/dev/null 2>&1"
StandardOutput=file:/result
StandardError=file:/result
"""


@contextmanager
def made(directory: Path) -> Iterator[Path]:
    """Yield the root directory of a machine with a writable layer of its own, and ocifs installed as links."""
    for program in ("systemd-nspawn", "debootstrap"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing")
    base = Path(os.environ.get("OCIFS_TEST_MACHINE") or directory / "base")
    if not base.exists():
        bootstrap = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(base)]
        subprocess.run(bootstrap, check=True, capture_output=True)
    machine = directory / "machine"
    layers = [directory / "upper", directory / "work"]
    for each in (machine, *layers):
        each.mkdir()
    options = f"lowerdir={base},upperdir={layers[0]},workdir={layers[1]}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", machine], check=True)
    scripts = Path(sysconfig.get_path("scripts"))
    links = {
        "usr/bin/ocifs": "ocifs",
        "usr/sbin/mount.ocifs": "mount.ocifs",
        "usr/sbin/mount.fuse.ocifs": "mount.ocifs",
    }
    for link, script in links.items():
        (machine / link).unlink(missing_ok=True)
        (machine / link).symlink_to(scripts / script)
    yield machine
    subprocess.run(["umount", "-l", machine], check=True)


def boot(machine: Path, checks: str, binds: dict[str, str], units: tuple[str, ...] = ()) -> str:
    """Boot with units of the machine, run a script, power off, and return what the script wrote.

    `binds` maps paths of this machine to those in the other, where they are read-only.
    """
    (machine / "checks").write_text(checks)
    wanted = machine / "etc/systemd/system/multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted.parent / "check.service").write_text(_CHECK_UNIT)
    for name in ("check.service", *units):
        (wanted / name).unlink(missing_ok=True)
        (wanted / name).symlink_to(f"../{name}")
    own = {path: path for path in (str(REPOSITORY), sys.prefix, sys.base_prefix) if not path.startswith("/usr")}
    command = [
        *("systemd-nspawn", "--quiet", "--directory", str(machine), "--boot", "--register=no", "--keep-unit"),
        *("--capability=all", "--system-call-filter=pidfd_getfd @keyring", "--bind=/dev/fuse", "--bind=/dev/autofs"),
        *(f"--bind-ro={here}:{there}" for here, there in sorted((own | binds).items())),
    ]
    environment = os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0"}
    with (machine.parent / "console").open("wb") as console:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment, timeout=900, check=False
        )
    return (machine / "result").read_text()
