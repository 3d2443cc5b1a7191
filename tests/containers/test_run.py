"""`ocifs run`, from its first line to each of its ends; every test also makes sure that nothing is left."""

import fcntl
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.containers.conftest import image_of_programs
from tests.images import Image, Json, Layer, write_layout
from tests.tars import directory, file, tar
from tests.waiting import wait_for

pytestmark = pytest.mark.usefixtures("root", "runc")

ROOTFS = ["mount", "overlay", "tmpfs"]


@contextmanager
def started(ocifs: Ocifs, *arguments: str | Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a container that has written its first line, which is `ready`; then wait until `ocifs run` has ended."""
    with ocifs.start("run", *arguments) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
            process.wait(timeout=30)
        finally:
            process.terminate()


@contextmanager
def running(ocifs: Ocifs, *arguments: str | Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The same, with nothing left afterwards."""
    with started(ocifs, *arguments) as process:
        yield process
    assert ocifs.leftovers() == []


def cleaner_of(process: "subprocess.Popen[bytes]") -> int:
    """Return the process that cleans when the others are gone: the fork of this one."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    own = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    (found,) = (pid for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == own)
    return int(found)


@pytest.mark.parametrize("rootfs", ROOTFS)
def test_prints_and_leaves_nothing(ocifs: Ocifs, programs: Path, runtime: str, rootfs: str) -> None:
    said = ocifs.output("run", "--runtime", runtime, "--rootfs", rootfs, programs, "--", "sh", "-c", "echo $((6 * 7))")
    assert said == "42\n"
    assert ocifs.leftovers() == []


@pytest.mark.parametrize("engine", ["erofs", "fuse"])
@pytest.mark.parametrize("rootfs", ["mount", "overlay"])
def test_either_engine_will_do_for_any_user(
    ocifs: Ocifs, programs: Path, rootfs: str, engine: str, erofs: None
) -> None:
    arguments = [
        "--engine",
        engine,
        "--rootfs",
        rootfs,
        "--user",
        "web",
        str(programs),
        "--",
        "sh",
        "-c",
        "id -u; cat /etc/group",
    ]
    assert ocifs.output("run", *arguments).splitlines()[:2] == ["33", "root:x:0:"]


def test_runs_what_the_image_says(ocifs: Ocifs, programs: Path) -> None:
    assert ocifs.output("run", programs) == "started by the image\n"


def test_options_override_the_image(ocifs: Ocifs, programs: Path) -> None:
    options = ["--env", "WHO=me", "--env", "MINE", "--user", "web", "--cwd", "/srv", "--hostname", "box"]
    script = "echo $WHO $MINE $HOME $PWD; id -u; id -G; cat /proc/sys/kernel/hostname"
    said = ocifs.output("run", *options, programs, "--", "sh", "-c", script, MINE="inherited")
    assert said.splitlines() == ["me inherited /srv /srv", "33", "33 4", "box"]


def test_root_has_the_capabilities_that_podman_gives(ocifs: Ocifs, programs: Path, runtime: str) -> None:
    """Those of containers.conf(5), by their numbers in capabilities(7): NET_BIND_SERVICE is 10."""
    script = "cat /proc/self/status; echo x >/srv/x; chown web /srv/x && setpriv --reuid 33 --clear-groups cat /srv/x"
    said = ocifs.output("run", "--runtime", runtime, "--rootfs", "tmpfs", programs, "--", "sh", "-c", script)
    mask = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31))
    fields = dict(line.split(":\t") for line in said.splitlines()[:-1])
    assert [int(fields[each], 16) for each in ("CapPrm", "CapEff", "CapBnd")] == [mask] * 3
    assert [int(fields[each], 16) for each in ("CapInh", "CapAmb")] == [0, 0]
    assert said.splitlines()[-1] == "x"


def test_an_image_for_another_machine_is_said_to_be_so(ocifs: Ocifs, tmp_path: Path) -> None:
    """The config may be wrong, so it is run; mips64p32 has never had an emulator."""
    config: Json = {**image_of_programs().config, "architecture": "mips64p32"}
    image = write_layout(tmp_path / "image", Image(image_of_programs().layers, config=config))
    result = ocifs.run("run", image)
    assert (result.code, result.out) == (0, b"started by the image\n")
    assert result.err.startswith("ocifs: warning: the image is for linux/mips64p32, this machine is linux/")
    assert result.err.count("\n") == 1
    assert "refused by --strict" in ocifs.complaint(4, "run", "--strict", image)


def test_a_config_with_blemishes_runs_with_warnings(ocifs: Ocifs, tmp_path: Path) -> None:
    config = {
        "Entrypoint": [""],
        "Cmd": ["sh", "-c", "echo $A; pwd"],
        "Env": ["PATH=/bin", "A", "=1"],
        "WorkingDir": "srv",
    }
    image = write_layout(tmp_path / "image", Image(image_of_programs().layers, config={"config": config}))
    result = ocifs.run("run", "--env", "A=mine", image)
    assert (result.code, result.text) == (0, "mine\n/srv\n")
    assert [line.removeprefix("ocifs: warning: ") for line in result.err.splitlines()] == [
        "'A' in the image's environment is skipped: it is not NAME=VALUE",
        "'=1' in the image's environment is skipped: it is not NAME=VALUE",
        "working directory 'srv' is not an absolute path without '..': using /srv",
    ]
    assert "refused by --strict" in ocifs.complaint(4, "run", "--strict", image)


def test_passes_on_the_exit_status(ocifs: Ocifs, programs: Path, runtime: str) -> None:
    for status in (7, 255):
        result = ocifs.run("run", "--runtime", runtime, programs, "--", "sh", "-c", f"exit {status}")
        assert result == (status, b"", "")


def test_a_killed_command_is_128_and_the_signal(ocifs: Ocifs, programs: Path, runtime: str) -> None:
    arguments = ["--runtime", runtime, str(programs), "--", "sh", "-c", "echo ready; exec sleep 1000"]
    with running(ocifs, *arguments) as process:
        (bundle,) = ocifs.runtime.glob("ocifs/ocifs-*")
        wait_for(lambda: (bundle / "pid").exists() and (bundle / "pid").read_text() != "")
        os.kill(int((bundle / "pid").read_text()), signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGKILL


def test_a_command_that_is_not_there_is_said_to_be_so(ocifs: Ocifs, programs: Path, runtime: str) -> None:
    result = ocifs.run("run", "--runtime", runtime, programs, "--", "no-such-command")
    assert (result.code, result.err.count("\n")) == (127, 1)
    assert result.err.startswith("ocifs: command no-such-command is in no directory of the container's PATH (/bin)")
    assert ocifs.leftovers() == []


def test_standard_streams_are_the_container_s(ocifs: Ocifs, programs: Path) -> None:
    command = ocifs.command("run", programs, "--", "sh", "-c", "cat; echo to stderr >&2")
    ran = subprocess.run(command, input=b"through\n", capture_output=True, env=ocifs.variables(), check=True)
    assert (ran.stdout, ran.stderr) == (b"through\n", b"to stderr\n")


def test_the_root_of_a_writable_rootfs_is_that_of_the_image(ocifs: Ocifs, programs: Path) -> None:
    shown = {
        ocifs.output("run", "--rootfs", rootfs, programs, "--", "stat", "-c", "%a %u %g %Y", "/") for rootfs in ROOTFS
    }
    assert len(shown) == 1


@pytest.mark.parametrize("options", [["--rootfs", "overlay"], []], ids=["overlay", "default"])
def test_what_is_written_is_there_and_then_gone(ocifs: Ocifs, programs: Path, options: list[str]) -> None:
    script = "echo new >/etc/passwd && cat /etc/passwd && echo x >/root/x && ls /root"
    assert ocifs.output("run", *options, programs, "--", "sh", "-c", script) == "new\nx\n"
    assert ocifs.output("run", *options, programs, "--", "ls", "/root") == ""


def test_a_mounted_rootfs_cannot_be_written(ocifs: Ocifs, programs: Path) -> None:
    result = ocifs.run("run", "--read-only", programs, "sh", "-c", "echo x >/etc/passwd")
    assert result.code == 2
    assert "Read-only file system" in result.err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 3), (signal.SIGINT, 4), (signal.SIGUSR1, 5)])
def test_signals_reach_the_command(
    ocifs: Ocifs, programs: Path, runtime: str, number: signal.Signals, status: int
) -> None:
    script = "trap 'exit 3' TERM; trap 'exit 4' INT; trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    with running(ocifs, "--runtime", runtime, programs, "--", "sh", "-c", script) as process:
        process.send_signal(number)
    assert process.returncode == status


@pytest.mark.parametrize(
    ("rootfs", "number"), [("mount", signal.SIGTERM), ("overlay", signal.SIGINT), ("tmpfs", signal.SIGHUP)]
)
def test_a_command_that_knows_nothing_of_signals_ends_all_the_same(
    ocifs: Ocifs, programs: Path, rootfs: str, number: signal.Signals
) -> None:
    with running(ocifs, "--rootfs", rootfs, programs, "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        process.send_signal(number)
    assert process.returncode == 128 + number


def test_a_command_that_takes_no_notice_ends_the_third_time(ocifs: Ocifs, programs: Path) -> None:
    script = "trap 'echo no' TERM; echo ready; while :; do sleep 0.02; done"
    with running(ocifs, programs, "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        for _ in range(2):
            process.terminate()
            assert process.stdout.readline() == b"no\n"
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("rootfs", ROOTFS)
def test_being_killed_leaves_nothing_either(ocifs: Ocifs, programs: Path, runtime: str, rootfs: str) -> None:
    arguments = [
        "--runtime",
        runtime,
        "--rootfs",
        rootfs,
        str(programs),
        "--",
        "sh",
        "-c",
        "echo ready; exec sleep 1000",
    ]
    with running(ocifs, *arguments) as process:
        process.kill()


def test_without_the_process_that_cleans_ocifs_does(ocifs: Ocifs, programs: Path) -> None:
    with running(ocifs, programs, "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        os.kill(cleaner_of(process), signal.SIGKILL)
        process.terminate()


@pytest.mark.parametrize("rootfs", ["mount", "tmpfs"])
def test_umount_clears_what_is_left_when_both_are_killed(ocifs: Ocifs, programs: Path, rootfs: str) -> None:
    arguments = ["--rootfs", rootfs, str(programs), "--", "sh", "-c", "echo ready; exec sleep 1000"]
    with started(ocifs, *arguments) as process:
        os.kill(cleaner_of(process), signal.SIGKILL)
        process.kill()
        (bundle,) = {line.split()[0] for line in ocifs.output("mounts").splitlines() if f"{ocifs.home}/" in line}
        ocifs.output("umount", bundle)
    assert not Path(bundle).exists()
    assert ocifs.leftovers() == []


@pytest.mark.parametrize("left", [False, True])
def test_what_the_bundle_names_as_its_runtime_is_not_run(ocifs: Ocifs, programs: Path, left: bool) -> None:
    """Neither by the process that cleans, nor by `ocifs umount` for a bundle that is left."""
    evil = ocifs.home / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {ocifs.home}/mark\n")
    evil.chmod(0o755)
    with started(ocifs, programs, "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        (runtime,) = ocifs.runtime.glob("ocifs/ocifs-*/runtime")
        name = runtime.read_bytes()
        runtime.unlink()
        runtime.write_text(str(evil))
        if left:
            os.kill(cleaner_of(process), signal.SIGKILL)
            process.kill()
            complaint = ocifs.run("umount", runtime.parent).err
            assert f"was run by {evil}, not by runc or crun" in complaint
            runtime.write_bytes(name)
            ocifs.output("umount", runtime.parent)
        else:
            process.terminate()
    assert not (ocifs.home / "mark").exists()
    assert ocifs.leftovers() == []


def test_a_dead_daemon_is_cleaned_away_as_well(ocifs: Ocifs, programs: Path) -> None:
    with running(ocifs, "--rootfs", "overlay", programs, "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        (record,) = ocifs.runtime.glob("ocifs/*.json")
        os.kill(int(record.stem), signal.SIGKILL)
        process.terminate()


def test_keep_keeps_the_bundle_until_it_is_unmounted(ocifs: Ocifs, programs: Path) -> None:
    result = ocifs.run("run", "--keep", "--rootfs", "overlay", programs, "--", "sh", "-c", "echo x >/srv/x; exit 4")
    assert result.code == 4
    bundle = Path(result.err.split()[2].rstrip(":"))
    assert result.err == f"ocifs: kept {bundle}: `ocifs umount` removes it\n"
    assert (bundle / "rootfs/srv/x").read_text() == "x\n"
    assert (bundle / "upper/srv/x").read_text() == "x\n"
    ocifs.output("umount", bundle)
    assert not bundle.exists()


def test_an_overlay_is_not_kept_where_memory_is(ocifs: Ocifs, programs: Path) -> None:
    with running(ocifs, "--rootfs", "overlay", programs, "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        assert list(ocifs.runtime.glob("ocifs/ocifs-*")) == []
        assert len(list(ocifs.temporary.glob("ocifs-*/upper"))) == 1
        process.terminate()


def test_a_deep_tree_is_removed(ocifs: Ocifs, programs: Path) -> None:
    deep = "/srv/" + "d/" * 1500
    script = f"mkdir -p {deep} && cd {deep} && echo deep >f && cat f"
    assert ocifs.output("run", "--rootfs", "overlay", programs, "--", "sh", "-c", script) == "deep\n"
    assert ocifs.leftovers() == []


class Terminal:
    """A pseudoterminal, and a command for which it is the controlling terminal."""

    def __init__(self, ocifs: Ocifs, *arguments: str | Path) -> None:
        self.ours, theirs = pty.openpty()

        def take() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            ocifs.command(*arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=ocifs.variables(),
            preexec_fn=take,  # noqa: PLW1509 - tests have no threads
        )
        os.close(theirs)

    def read_until(self, text: bytes) -> bytes:
        """Return what it shows, up to and with `text`, or to the end."""
        shown = b""
        while text not in shown:
            try:
                data = os.read(self.ours, 4096)
            except OSError:  # EIO: the other side is closed
                break
            if not data:
                break
            shown += data
        return shown


def test_a_terminal_is_the_container_s_own(ocifs: Ocifs, programs: Path) -> None:
    terminal = Terminal(ocifs, "run", "-it", programs, "sh", "-c", "test -t 0 && ls -l /proc/self/fd/0; cat; echo over")
    assert b"-> /dev/pts/0" in terminal.read_until(b"pts/0\r\n")
    os.write(terminal.ours, b"typed\n\x04")
    assert terminal.read_until(b"over\r\n").split() == [b"typed", b"typed", b"over"]
    assert terminal.process.wait(timeout=20) == 0
    os.close(terminal.ours)


def test_ctrl_c_without_a_terminal_in_the_container(ocifs: Ocifs, programs: Path) -> None:
    script = "trap 'echo once' INT; echo ready; while :; do sleep 0.02; done"
    terminal = Terminal(ocifs, "run", "--no-tty", programs, "--", "sh", "-c", script)
    assert terminal.read_until(b"ready\r\n").endswith(b"ready\r\n")
    os.write(terminal.ours, b"\x03")
    assert terminal.read_until(b"once\r\n").count(b"once") == 1
    time.sleep(0.1)
    terminal.process.terminate()
    assert b"once" not in terminal.read_until(b"nothing more")
    assert terminal.process.wait(timeout=20) == 128 + signal.SIGTERM
    os.close(terminal.ours)


def test_ctrl_c_ends_a_command_that_knows_nothing_of_it(ocifs: Ocifs, programs: Path) -> None:
    terminal = Terminal(ocifs, "run", "--no-tty", programs, "--", "sh", "-c", "echo ready; exec sleep 1000")
    terminal.read_until(b"ready\r\n")
    os.write(terminal.ours, b"\x03")
    assert terminal.process.wait(timeout=20) == 128 + signal.SIGINT
    os.close(terminal.ours)


def test_an_image_without_directories_to_mount_on_needs_a_writable_rootfs(
    ocifs: Ocifs, programs: Path, tmp_path: Path
) -> None:
    bare = write_layout(tmp_path / "bare", Image(layers=(Layer(tar([directory(b"./"), file(b"x", b"x")])),)))
    complaint = ocifs.complaint(5, "run", "--read-only", bare, "/x")
    assert complaint.startswith("/proc is not a directory in the image")
    assert "--rootfs overlay or tmpfs" in complaint


def test_refusals(ocifs: Ocifs, programs: Path, tmp_path: Path) -> None:
    no_command = write_layout(tmp_path / "no-command", Image(layers=(Layer(tar([directory(b"./")])),)))
    assert "no command" in ocifs.complaint(3, "run", no_command)
    assert "--runtime: 'nosuch' is not a program" in ocifs.complaint(2, "run", "--runtime", "nosuch", programs)
    assert "neither runc nor crun" in ocifs.complaint(3, "run", programs, PATH=str(tmp_path))
    assert "/etc/passwd" in ocifs.complaint(3, "run", "--user", "stranger", programs)
    assert "/etc/group" in ocifs.complaint(3, "run", "--user", "web:strangers", programs)
    for usage in (["--tty", str(programs)], ["--cwd", "srv", str(programs)], ["--cwd", "/a/../..", str(programs)]):
        assert ocifs.run("run", *usage).code == 2
    assert ocifs.leftovers() == []
