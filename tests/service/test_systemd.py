"""The service under a systemd that has booted: with its unit, mounts outlive everything. `scripts/test --full` only."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.conftest import image_of_programs
from tests.depth import FULL
from tests.images import Image, Layer, write_layout
from tests.machine import boot, made
from tests.tars import file, tar

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not FULL, reason="boots a machine, in minutes: scripts/test --full"),
]

_CHECKS = r"""
export HOME=/root
unset XDG_RUNTIME_DIR
until_() { for i in $(seq 600); do eval "$1" && return; sleep 0.1; done; echo "never: $1"; }
show() { systemctl show -P "$1" ocifs; }
worker() { ocifs mounts | awk '$1 == "/mnt/a" { print $4 }'; }
state() { ocifs mounts | awk '$1 == "/mnt/a" { $1 = $2 = $3 = $4 = ""; print }'; }
kept() { ocifs service status | head -n 1 | sed 's|.*mounts: ||'; }
name() { cat "/proc/$(show MainPID)/comm"; }
in_container() { grep -lsx sleep /proc/[0-9]*/comm | sed s/comm/cmdline/ | xargs -r grep -lsz '^1000$' | grep -q .; }

ocifs service unit >/etc/systemd/system/ocifs.service
systemctl daemon-reload
systemctl start ocifs
echo "started: $(show ActiveState), $(show Type), $(name)"
ocifs mount /srv/image /mnt/a
touch /reading
(while [ -e /reading ]; do cmp /mnt/a/big /srv/big || break; done; echo "readers: done") &
reader=$!

before=$(worker); kill -KILL "$before"
until_ '[ "$(worker)" != "$before" ]'
echo "worker killed:$(state), $(show NRestarts) restarts of the keeper"

kill -KILL "$(show MainPID)"
until_ '[ "$(show NRestarts)" = 1 ] && [ "$(show ActiveState)" = active ]'
until_ '[ "$(kept)" = 1 ]'
echo "keeper killed: kept $(kept)"

systemctl restart ocifs
until_ '[ "$(kept)" = 1 ]'
echo "restarted: $(show ActiveState), kept $(kept)"

before=$(show MainPID)
systemctl reload ocifs
echo "reloaded: $?, $(show ActiveState)"
until_ '[ "$(show MainPID)" != "$before" ]'
echo "kept $(kept) by $(name)"

systemctl stop ocifs
echo "stopped: $(show ActiveState), $(cmp /mnt/a/big /srv/big && echo same)"
systemctl start ocifs
until_ '[ "$(kept)" = 1 ]'
echo "started again: kept $(kept)"

findmnt -rno TARGET -t cgroup,cgroup2 | while read -r each; do mount -o remount,rw,bind "$each"; done
ocifs index /srv/programs >/dev/null
ocifs run /srv/programs sh -c 'echo container; exit 3'; echo "run: $?"
ocifs run /srv/programs sleep 1000 & run=$!
disown $run
until_ in_container
kill -KILL $run
until_ '! in_container'
until_ '! ls -d /run/ocifs/ocifs-* /var/tmp/ocifs-* >/dev/null 2>&1'
echo "container killed: $(ls -d /run/ocifs/ocifs-* /var/tmp/ocifs-* 2>/dev/null)"

rm /reading; wait $reader
journalctl --sync
for field in "OCIFS_MOUNT=/mnt/a" "OCIFS_IMAGE=/srv/image"; do
    journalctl -q -u ocifs "$field" -o cat | grep -c 'its worker .* was ended by signal 9, and is replaced'
done
ocifs umount /mnt/a; echo "umount: $?, kept $(kept)"
ls /run/ocifs
"""

_EXPECTED = """started: active, notify, ocifs-keeper
worker killed:    mounted, restarts: 1 mount erofs, 0 restarts of the keeper
keeper killed: kept 1
restarted: active, kept 1
reloaded: 0, active
kept 1 by ocifs-keeper
stopped: inactive, same
started again: kept 1
container
run: 3
container killed: 
readers: done
1
1
umount: 0, kept 0
commands.sock
mountpoints.lock
service.lock
service.sock
"""  # noqa: W291 - nothing is left


@pytest.fixture
def machine(tmp_path: Path, root: None, erofs: None) -> Iterator[Path]:
    with made(tmp_path) as found:
        yield found


def test_mounts_outlive_workers_keepers_and_systemctl_commands(machine: Path, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(8 << 20)
    image = write_layout(tmp_path / "image", Image(layers=(Layer(tar([file(b"big", content)])),)))
    programs = write_layout(tmp_path / "programs", image_of_programs())
    (tmp_path / "big").write_bytes(content)
    (machine / "mnt/a").mkdir(parents=True, exist_ok=True)
    binds = {str(image): "/srv/image", str(programs): "/srv/programs", str(tmp_path / "big"): "/srv/big"}
    stop = threading.Event()

    def forget() -> None:
        while not stop.wait(0.2):  # so that readers read from the mount again
            Path("/proc/sys/vm/drop_caches").write_text("1")

    forgetting = threading.Thread(target=forget)
    forgetting.start()
    try:
        assert boot(machine, _CHECKS, binds) == _EXPECTED
    finally:
        stop.set()
        forgetting.join()
