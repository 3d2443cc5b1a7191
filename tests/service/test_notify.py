"""What systemd and its journal are told: read from sockets of the same kinds."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ocifs.service.notify import IMAGE, MESSAGE_ID, JournalHandler, is_journal, notify
from tests.cli.command import Ocifs
from tests.service.running import Service


@pytest.fixture
def systemd(tmp_path: Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    end.bind(os.fspath(tmp_path / "notify"))
    end.settimeout(20)
    return end


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/missing")
    notify("READY=1")


def test_a_service_says_that_it_is_ready_and_an_upgrade_which_process_is_the_main_one(
    command: Ocifs, image: Path, tmp_path: Path, systemd: socket.socket
) -> None:
    variables = command.variables(NOTIFY_SOCKET=str(tmp_path / "notify"))
    service = Service(command, image)
    with systemd, subprocess.Popen(command.command("service", "--foreground"), env=variables) as process:
        assert systemd.recv(4096).decode().splitlines() == ["READY=1", f"MAINPID={process.pid}"]
        assert service.keeper == process.pid
        command.output("service", "upgrade", NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert process.wait(20) == 0
        assert systemd.recv(4096).decode().splitlines() == ["READY=1", f"MAINPID={service.keeper}"]
        service.end()
        assert systemd.recv(4096) == b"STOPPING=1"


def test_records_reach_the_journal_with_fields(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(os.fspath(path))
        handler = JournalHandler("/mnt", "debian:latest", os.fspath(path))
        message = f"layer sha256:{'0' * 64}: changed\nor damaged"
        handler.emit(logging.LogRecord("ocifs", logging.ERROR, "", 0, message, None, None))
        handler.close()
        entry = journal.recv(65536)
    data = message.encode()
    assert entry.startswith(b"MESSAGE\n" + len(data).to_bytes(8, "little") + data + b"\n")
    assert entry.removeprefix(b"MESSAGE\n" + len(data).to_bytes(8, "little") + data + b"\n").splitlines() == [
        b"PRIORITY=3",
        b"SYSLOG_IDENTIFIER=ocifs",
        b"OCIFS_LAYER=sha256:" + b"0" * 64,
        b"OCIFS_MOUNT=/mnt",
        b"OCIFS_IMAGE=debian:latest",
    ]


def test_a_record_may_have_fields_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(os.fspath(path))
        handler = JournalHandler(path=os.fspath(path))
        record = logging.LogRecord("ocifs", logging.ERROR, "", 0, "refuted", None, None)
        vars(record).update({MESSAGE_ID: "0" * 32, IMAGE: "app"})
        handler.emit(record)
        handler.close()
        lines = journal.recv(65536).splitlines()
    assert {b"MESSAGE_ID=" + b"0" * 32, b"OCIFS_IMAGE=app"} <= {*lines}


def test_the_journal_is_recognised_by_its_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stream").open("wb") as file:
        status = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(file.fileno())
        assert not is_journal(0)


def test_the_unit_can_be_read() -> None:
    unit = subprocess.run(
        [sys.executable, "-c", "from ocifs.cli.main import main; main()", "service", "unit"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "Type=notify" in unit.splitlines()
    assert "KillMode=process" in unit.splitlines()
    assert [line for line in unit.splitlines() if line.startswith("ExecReload=")] == [
        f"ExecReload={Path(sys.executable).parent}/ocifs service upgrade"
    ]
