"""The unit of the snapshotter under a systemd that has booted, with containerd. `scripts/test --full` only."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.cli.docker_registry import docker_registry, push
from tests.containers.conftest import image_of_programs
from tests.depth import FULL
from tests.images import Image, Layer, write_layout
from tests.machine import boot, made
from tests.tars import directory, file, tar

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not FULL, reason="boots a machine, in minutes: scripts/test --full"),
]

_PROGRAMS = ("/usr/bin/containerd", "/usr/bin/containerd-shim-runc-v2", "/usr/bin/ctr", "/usr/bin/ctr-remote")
_UNIT = "/lib/systemd/system/containerd.service"

_CHECKS = r"""
export HOME=/root
unset XDG_RUNTIME_DIR
until_() { for i in $(seq 600); do eval "$1" && return; sleep 0.1; done; echo "never: $1"; }
show() { systemctl show -P "$1" "${2:-ocifs-snapshotter}"; }
run() { name=$1; shift; ctr run --rm --snapshotter ocifs "$host/app:1" "$name" "$@" 2>&1; }
same() { ctr task exec --exec-id "e$((n += 1))" long cat /big | cmp - /srv/big && echo same; }
mounted() { ocifs mounts | grep -c ' mounted'; }
worker() { ocifs mounts | awk '$1 ~ "/images/" { print $4 }'; }
is_ready() { ctr snapshots --snapshotter ocifs usage >/dev/null 2>&1; }
host=$(cat /srv/host)

findmnt -rno TARGET -t cgroup,cgroup2 | while read -r each; do mount -o remount,rw,bind "$each"; done
for each in ocifs containerd; do mkdir -p /var/lib/$each; mount -t tmpfs -o mode=0700 tmpfs /var/lib/$each; done
cat >/etc/containerd/config.toml <<'END'
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[proxy_plugins.ocifs]
  type = "snapshot"
  address = "/run/ocifs/snapshotter.sock"
END
ocifs service unit >/etc/systemd/system/ocifs.service
ocifs snapshotter unit >/etc/systemd/system/ocifs-snapshotter.service
systemctl daemon-reload
systemctl start ocifs ocifs-snapshotter containerd
echo "started: $(show ActiveState), $(show Type), socket $(stat -c %a /run/ocifs/snapshotter.sock)"
ocifs snapshotter check | grep -oE '^[a-z]+ +(containerd|snapshotter|service):'

ctr-remote image rpull --plain-http --snapshotter ocifs "$host/app:1" >/dev/null
echo "lazily: $(run one cat /srv/answer), mounts $(mounted)"
ctr image pull --plain-http --snapshotter ocifs "$host/plain:1" >/dev/null
echo "unpacked: $(ctr run --rm --snapshotter ocifs "$host/plain:1" two stat -c '%u:%g %a' /srv/owned)"
ctr run --detach --snapshotter ocifs "$host/app:1" long sleep 100000
before=$(worker)
echo "container: $(same)"

kill -KILL "$(show MainPID)"
echo "killed: $(same)"
until_ '[ "$(show NRestarts)" = 1 ] && [ "$(show ActiveState)" = active ]'
until_ is_ready
echo "restarted by systemd: $(run three cat /srv/answer), $(same)"

systemctl restart ocifs-snapshotter
until_ is_ready
echo "restarted: $(run four cat /srv/answer), $(same)"

systemctl restart containerd
until_ is_ready
echo "containerd restarted: $(run five cat /srv/answer), $(same)"

systemctl stop ocifs-snapshotter
run six true >/dev/null; code=$?
echo "stopped: $(show ActiveState), run $code, $(same)"
systemctl start ocifs-snapshotter
until_ is_ready
echo "started again: $(run seven cat /srv/answer), $(same)"
[ "$(worker)" = "$before" ] && echo 'one worker served all that time'

kill -KILL "$(show MainPID ocifs)"
until_ '[ "$(show NRestarts ocifs)" = 1 ] && [ "$(show ActiveState ocifs)" = active ]'
echo "keeper killed: $(run eight cat /srv/answer), $(same)"

ctr task kill -s KILL long; until_ 'ctr task rm long 2>/dev/null'; ctr container rm long
ctr image rm --sync "$host/app:1" "$host/plain:1" >/dev/null
until_ '[ "$(mounted)" = 0 ]'
systemctl disable --now -q ocifs
ctr-remote image rpull --plain-http --snapshotter ocifs "$host/app:1" >/dev/null
systemctl restart ocifs-snapshotter
until_ is_ready
ctr run --detach --snapshotter ocifs "$host/app:1" long sleep 100000
before=$(worker)
systemctl restart ocifs-snapshotter
until_ is_ready
[ "$(worker)" = "$before" ] && echo "without ocifs.service: $(run nine cat /srv/answer), $(same)"
journalctl --sync
journalctl -q -u ocifs-snapshotter -o cat | grep -c 'listening on /run/ocifs/snapshotter.sock'
"""

_EXPECTED = """started: active, notify, socket 600
ok       containerd:
ok       snapshotter:
ok       service:
lazily: 42, mounts 1
unpacked: 1234:5678 4755
container: same
killed: same
restarted by systemd: 42, same
restarted: 42, same
containerd restarted: 42, same
stopped: inactive, run 1, same
started again: 42, same
one worker served all that time
keeper killed: 42, same
without ocifs.service: 42, same
6
"""


@pytest.fixture
def machine(tmp_path: Path, root: None, erofs: None) -> Iterator[Path]:
    for needed in (*_PROGRAMS, _UNIT):
        if not Path(needed).exists():
            pytest.skip(f"{needed} is missing")
    with made(tmp_path) as found:
        yield found


def test_containers_outlive_the_snapshotter_and_systemctl_commands(machine: Path, ocifs: Ocifs, tmp_path: Path) -> None:
    programs = image_of_programs()
    content = random.Random(1).randbytes(8 << 20)
    (tmp_path / "big").write_bytes(content)
    answer = [directory(b"srv/"), file(b"srv/answer", b"42\n")]
    app = write_layout(
        tmp_path / "app",
        Image((*programs.layers, Layer(tar([*answer, file(b"big", content)]))), config=programs.config),
    )
    owned = Layer(tar([directory(b"srv/"), file(b"srv/owned", b"", uid=1234, gid=5678, mode=0o4755)]))
    plain = write_layout(tmp_path / "plain", Image((owned, *programs.layers), config=programs.config))
    (machine / "etc/containerd").mkdir(exist_ok=True)
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        push(f"oci:{app}:latest", host, "app:1")
        push(f"oci:{plain}:latest", host, "plain:1")
        ocifs.output("index", "push", f"docker://{host}/app:1")
        (tmp_path / "host").write_text(host)
        binds = {each: each for each in (*_PROGRAMS, _UNIT)} | {
            str(tmp_path / each): f"/srv/{each}" for each in ("host", "big")
        }
        said = boot(machine, _CHECKS, binds)
    assert said == _EXPECTED, said
