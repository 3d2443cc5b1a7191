"""The options of `ocifs run` in containers: each runtime does what config.json says.

A container runs many of them at once, because starting one takes most of the time.
"""

import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.containers.conftest import image_of_programs
from tests.containers.test_bundle import run_in
from tests.containers.test_run import running
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, symlink, tar

pytestmark = pytest.mark.usefixtures("root", "runc")


@pytest.fixture
def shared(ocifs: Ocifs) -> Path:
    """A directory of the host with a file."""
    made = ocifs.home / "shared"
    made.mkdir()
    (made / "f").write_text("of the host\n")
    return made


@pytest.fixture(scope="session")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with an entrypoint, and symlinks where the tests mount."""
    members = [
        directory(b"run"),
        symlink(b"var/run", b"/run"),
        symlink(b"etc/resolv.conf", b"../run/resolv.conf"),
        file(b"bin/script", b"#!/bin/sh\necho script $*\n", mode=0o755),
    ]
    config = {"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo cmd"], "Env": ["PATH=/bin"]}
    image = Image((*image_of_programs().layers, Layer(tar(members))), config={"config": config})
    return write_layout(tmp_path_factory.mktemp("linked") / "image", image)


def test_mounts_files_and_variables(ocifs: Ocifs, linked: Path, programs: Path, shared: Path, runtime: str) -> None:
    """The destination below /var/run and the file /etc/resolv.conf are behind symlinks of the image."""
    (ocifs.home / "env").write_text("FROM=file\n")
    options = [
        *("--runtime", runtime, "-v", f"{shared}:/var/run/shared", "-v", "./shared/f:/etc/motd:ro,z"),
        *("--mount", f"type=image,source={programs},target=/other", "--tmpfs", "/scratch:size=1m,mode=700"),
        *("--mount", "type=tmpfs,target=/dev/shm,tmpfs-size=2m", "--env-file", "env", "-e", "MINE=1", "-w", "/srv"),
        *("--hostname", "box", "--add-host", "db:10.0.0.9", "--net", "host", "--name", "web"),
    ]
    script = """\
    cat /run/shared/f /etc/motd; echo new >/run/shared/new; (echo x >/etc/motd) 2>/dev/null || echo motd is read-only
    (echo x >/other/x) 2>/dev/null || cat /other/etc/secret
    stat -c %a /scratch; echo $FROM $MINE $PWD; cat /etc/hostname; ls -l /etc/resolv.conf
    while read address name; do case $name in db|box) echo $address $name;; esac; done </etc/hosts
    test -s /run/resolv.conf && echo resolves; cat /proc/self/mountinfo"""
    lines = ocifs.output("run", *options, linked, script).splitlines()
    assert lines[:6] == ["of the host", "of the host", "motd is read-only", "secret", "700", "file 1 /srv"]
    assert lines[6] == "box"
    assert lines[7].endswith("/etc/resolv.conf -> ../run/resolv.conf")
    assert lines[8:10] == ["10.0.0.9 db", "127.0.1.1 box"]
    if os.path.exists("/etc/resolv.conf"):
        assert "resolves" in lines
    table = {fields[4]: fields for fields in map(str.split, lines) if len(fields) > 9}
    assert "size=2048k" in table["/dev/shm"][-1]
    assert "nosuid" in table["/scratch"][5]
    assert (shared / "new").read_text() == "new\n"
    assert ocifs.leftovers() == []


def test_privileges_devices_and_limits(ocifs: Ocifs, programs: Path, runtime: str) -> None:
    script = "cat /proc/self/status; stat -c '%n %a %t:%T' /dev/fuse2; (sleep 0&sleep 0&sleep 0&sleep 0&) || exit 5"
    options = ["--cap-drop", "ALL", "--cap-add", "net_raw", "--device", "/dev/fuse:/dev/fuse2:rw"]
    limits = ["--pids-limit", "3", "-m", "64m", "--cpus", "0.5"]
    result = ocifs.run("run", "--runtime", runtime, *options, *limits, programs, "sh", "-c", script)
    fields = dict(line.split(":\t", 1) for line in result.text.splitlines() if ":\t" in line)
    assert [int(fields[each], 16) for each in ("CapEff", "CapBnd", "CapAmb")] == [1 << 13, 1 << 13, 0]
    assert f"/dev/fuse2 {stat.S_IMODE(os.stat('/dev/fuse').st_mode):o} a:e5" in result.text
    assert "fork" in result.err


def test_memory_is_limited(ocifs: Ocifs, programs: Path, runtime: str) -> None:
    options = ["--runtime", runtime, "-m", "16m", "--rootfs", "mount"]
    result = ocifs.run("run", *options, programs, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
    assert result.code == 128 + 9


def test_privileged(ocifs: Ocifs, programs: Path, runtime: str) -> None:
    script = "cat /proc/self/status; test -c /dev/fuse && echo fuse; echo box >/proc/sys/kernel/hostname && echo set"
    said = ocifs.output("run", "--runtime", runtime, "--privileged", programs, "sh", "-c", script)
    bounding = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd"))
    assert bounding.replace("CapBnd", "CapEff") in said.splitlines()
    assert "NoNewPrivs:\t0" in said
    assert said.splitlines()[-2:] == ["fuse", "set"]


def test_entrypoints(ocifs: Ocifs, linked: Path) -> None:
    assert ocifs.output("run", linked) == "cmd\n"
    assert ocifs.output("run", linked, "echo $0 appended") == "/bin/sh appended\n"
    assert ocifs.output("run", "--entrypoint", "script", linked, "--", "-x", "--user") == "script -x --user\n"
    assert ocifs.output("run", "--entrypoint", '["/bin/sh", "-c", "echo json"]', linked) == "json\n"


def test_an_init_that_this_machine_has(ocifs: Ocifs, programs: Path) -> None:
    if not (shutil.which("catatonit") or shutil.which("tini-static")):
        assert "Debian package catatonit or tini" in ocifs.complaint(3, "run", "--init", programs)
        pytest.skip("neither catatonit nor tini-static is installed")
    result = ocifs.run("run", "--init", programs, "sh", "-c", "cat /proc/1/comm; exit 5")
    assert (result.code, result.text) == (5, "ocifs-init\n")
    script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with running(ocifs, "--init", programs, "sh", "-c", script) as process:
        process.terminate()  # the init blocks it, and passes it on
    assert process.returncode == 3


def test_a_command_that_cannot_be_executed(ocifs: Ocifs, programs: Path, shared: Path, runtime: str) -> None:
    (shared / "build").write_text("#!/bin/sh\necho built\n")
    (shared / "script").write_text("#!/bin/none\n")
    (shared / "script").chmod(0o755)
    options = ["--runtime", runtime, "-v", f"{shared}:/src"]
    commands = [("/etc", 126), ("/etc/secret", 126), ("/none", 127), ("/src/build", 126), ("/src/script", 127)]
    for command, status in [*commands, ("/src/none", 127), ("/src", 126)]:
        assert f"command {command} " in ocifs.complaint(status, "run", *options, programs, command)
    (shared / "build").chmod(0o755)
    assert ocifs.output("run", *options, programs, "/src/build") == "built\n"


def test_a_name_is_taken_once(ocifs: Ocifs, programs: Path) -> None:
    result = ocifs.run("run", "--keep", "--name", "web", programs)
    assert result.text == "started by the image\n"
    bundle = ocifs.runtime / "ocifs/ocifs-web"
    assert str(bundle) in result.err
    again = ocifs.run("run", "--name", "web", programs)
    assert (again.code, again.out) == (7, b"")
    assert f"--name web is in use: choose another, or remove that container with `ocifs umount {bundle}`" in again.err
    ocifs.output("umount", bundle)


def test_a_bundle_takes_them_too_and_is_mounted_again(ocifs: Ocifs, programs: Path, shared: Path) -> None:
    bundle = ocifs.home / "box"
    options = ["-v", f"{shared}:/shared", "--mount", f"type=image,source={programs},target=/other", "-e", "A=1"]
    arguments = ["--args", "-c 'cat /shared/f /other/etc/secret; echo $A'", "--entrypoint", "sh"]
    ocifs.output("bundle", "--no-tty", "--rootfs", "overlay", *options, *arguments, programs, bundle)
    expected = "of the host\nsecret\n1\n"
    assert run_in(bundle) == expected
    ocifs.output("umount", bundle)
    assert ocifs.leftovers() == []
    assert "leave --volume out" in ocifs.run("bundle", "--remount", "-v", "/:/x", programs, bundle).err
    ocifs.output("bundle", "--remount", programs, bundle)
    assert run_in(bundle) == expected
    ocifs.output("umount", bundle)


def test_a_rootless_container_takes_them(user: Ocifs, programs: Path) -> None:
    image = user.home / "image"
    shutil.copytree(programs, image)
    options = [
        *("--rootfs", "mount", "--tmpfs", "/srv", "-v", f"{image}:/root:ro", "--device", "/dev/zero:/dev/z"),
        *("--cap-drop", "ALL", "--mount", f"type=image,source={image},target=/etc"),
    ]
    script = "cat /etc/etc/secret; echo written >/srv/x; cat /srv/x; ls /root; test -c /dev/z && echo device"
    said = user.output("run", *options, image, "sh", "-c", script)
    assert said.split() == ["secret", "written", "blobs", "index.json", "oci-layout", "device"]
    complaint = user.complaint(5, "run", "--memory", "64m", "--pids-limit", "5", image)
    assert "in a rootless container" in complaint
