"""A machine that boots systemd in systemd-nspawn, with entries in fstab, automounts and the units of docs/systemd.

It runs with `scripts/test --full` only: debootstrap makes the machine, in minutes. OCIFS_TEST_MACHINE may name the root
directory of one that exists, a Debian with systemd, fuse3 and the libraries of this Python.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.depth import FULL
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, tar

_REPOSITORY = Path(__file__).parents[2]
_PACKAGES = "systemd,systemd-sysv,dbus,fuse3,mount,util-linux,python3,libssl3,libffi8,libsqlite3-0,libreadline8"

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not FULL, reason="boots a machine, in minutes: scripts/test --full"),
]

_FSTAB = """
/srv/image:latest /mnt/boot ocifs nofail,noexec 0 0
/srv/image:latest /mnt/fuse fuse.ocifs engine=fuse,noauto,x-systemd.automount,x-systemd.idle-timeout=2s 0 0
/srv/image:latest /mnt/erofs ocifs engine=erofs,noauto,x-systemd.automount,x-systemd.idle-timeout=2s 0 0
/srv/missing /mnt/missing ocifs nofail 0 0
"""

_CHECKS = r"""
until_() { for i in $(seq 600); do eval "$1" && return; sleep 0.1; done; echo "never: $1"; }
ours() { grep -c " $1 .* - \(fuse.ocifs\|erofs\) " /proc/self/mountinfo; }
until_ 'systemctl is-active -q mnt-boot.mount'
echo "boot: $(cat /mnt/boot/hello)"
grep -o noexec /proc/self/mountinfo | head -n 1
until_ 'systemctl is-failed -q mnt-missing.mount'
echo "missing: $(systemctl show -P Result mnt-missing.mount), target $(systemctl is-active local-fs.target)"
mount /mnt/boot; echo "again: $?"
systemctl reload mnt-boot.mount; echo "reload: $?"
for engine in fuse erofs fuse; do
    echo "$engine: before $(ours /mnt/$engine), $(timeout 60 cat /mnt/$engine/hello), then $(ours /mnt/$engine)"
    until_ "[ \$(ours /mnt/$engine) = 0 ]"
    echo "$engine: idle, $(systemctl is-active mnt-$engine.automount)"
done
until_ 'systemctl is-active -q ocifs-debian.service'
echo "service: $(cat /srv/debian/hello)"
kill -KILL "$(systemctl show -P MainPID ocifs-debian.service)"
until_ '[ "$(systemctl show -P NRestarts ocifs-debian.service)" = 1 ]'
until_ 'systemctl is-active -q ocifs-debian.service'
echo "restarted: $(cat /srv/debian/hello)"
systemctl stop ocifs-debian.service
echo "stopped:$(ls /srv/debian)"
ls -d /var/cache/ocifs/entries
"""

_EXPECTED = """boot: hello
noexec
missing: exit-code, target active
again: 0
reload: 0
fuse: before 0, hello, then 1
fuse: idle, active
erofs: before 0, hello, then 1
erofs: idle, active
fuse: before 0, hello, then 1
fuse: idle, active
service: hello
restarted: hello
stopped:
/var/cache/ocifs/entries
"""

_CHECK_UNIT = """
[Service]
Type=oneshot
ExecStart=/bin/bash /checks
ExecStopPost=/bin/sh -c "systemctl poweroff --no-block -ff >/dev/null 2>&1"
StandardOutput=file:/result
StandardError=file:/result
"""


@pytest.fixture
def machine(tmp_path: Path, root: None, erofs: None) -> Iterator[Path]:
    """The root directory of a machine with a writable layer of its own."""
    for program in ("systemd-nspawn", "debootstrap"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing")
    if not os.path.exists("/dev/autofs"):
        pytest.skip("this kernel has no autofs")
    base = Path(os.environ.get("OCIFS_TEST_MACHINE") or tmp_path / "base")
    if not base.exists():
        bootstrap = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(base)]
        subprocess.run(bootstrap, check=True, capture_output=True)
    made = tmp_path / "machine"
    layers = [tmp_path / "upper", tmp_path / "work"]
    for each in (made, *layers):
        each.mkdir()
    options = f"lowerdir={base},upperdir={layers[0]},workdir={layers[1]}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", made], check=True)
    yield made
    subprocess.run(["umount", "-l", made], check=True)


def test_mounts_from_fstab_on_demand_and_again_after_a_kill(machine: Path, tmp_path: Path) -> None:
    members = [directory(b"./", mode=0o755), file(b"hello", b"hello\n")]
    image = write_layout(tmp_path / "image", Image(layers=(Layer(tar(members)),)))
    _furnish(machine)
    binds = {str(_REPOSITORY), sys.prefix, sys.base_prefix}
    command = [
        *("systemd-nspawn", "--quiet", "--directory", str(machine), "--boot", "--register=no", "--keep-unit"),
        *("--capability=all", "--bind=/dev/fuse", "--bind=/dev/autofs", f"--bind-ro={image}:/srv/image"),
        *(f"--bind-ro={path}" for path in sorted(binds) if not path.startswith("/usr")),
    ]
    environment = os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0"}
    with (tmp_path / "console").open("wb") as console:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment, timeout=900, check=False
        )
    assert (machine / "result").read_text() == _EXPECTED


def _furnish(machine: Path) -> None:
    """Install ocifs as links into this environment, its units, and the checks."""
    scripts = Path(sysconfig.get_path("scripts"))
    links = {
        "usr/bin/ocifs": "ocifs",
        "usr/sbin/mount.ocifs": "mount.ocifs",
        "usr/sbin/mount.fuse.ocifs": "mount.ocifs",
    }
    for link, script in links.items():
        (machine / link).unlink(missing_ok=True)
        (machine / link).symlink_to(scripts / script)
    for name in ("mnt/boot", "mnt/fuse", "mnt/erofs", "mnt/missing", "srv/debian"):
        (machine / name).mkdir(parents=True, exist_ok=True)
    (machine / "etc/fstab").write_text(_FSTAB)
    (machine / "checks").write_text(_CHECKS)
    units = machine / "etc/systemd/system"
    service = (_REPOSITORY / "docs/systemd/ocifs-debian.service").read_text()
    (units / "ocifs-debian.service").write_text(service.replace("/var/lib/images/debian:latest", "/srv/image:latest"))
    (units / "check.service").write_text(_CHECK_UNIT)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    for name in ("check.service", "ocifs-debian.service"):
        (wanted / name).unlink(missing_ok=True)
        (wanted / name).symlink_to(f"../{name}")
