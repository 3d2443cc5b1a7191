"""A machine with entries in fstab, automounts and the units of docs/systemd: `scripts/test --full` only."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.depth import FULL
from tests.images import Image, Layer, write_layout
from tests.machine import REPOSITORY, boot, made
from tests.tars import directory, file, tar

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


@pytest.fixture
def machine(tmp_path: Path, root: None, erofs: None) -> Iterator[Path]:
    """The root directory of a machine."""
    if not os.path.exists("/dev/autofs"):
        pytest.skip("this kernel has no autofs")
    with made(tmp_path) as found:
        yield found


def test_mounts_from_fstab_on_demand_and_again_after_a_kill(machine: Path, tmp_path: Path) -> None:
    members = [directory(b"./", mode=0o755), file(b"hello", b"hello\n")]
    image = write_layout(tmp_path / "image", Image(layers=(Layer(tar(members)),)))
    for name in ("mnt/boot", "mnt/fuse", "mnt/erofs", "mnt/missing", "srv/debian"):
        (machine / name).mkdir(parents=True, exist_ok=True)
    (machine / "etc/fstab").write_text(_FSTAB)
    unit = (REPOSITORY / "docs/systemd/ocifs-debian.service").read_text()
    unit = unit.replace("/var/lib/images/debian:latest", "/srv/image:latest")
    (machine / "etc/systemd/system/ocifs-debian.service").write_text(unit)
    assert boot(machine, _CHECKS, {str(image): "/srv/image"}, ("ocifs-debian.service",)) == _EXPECTED
