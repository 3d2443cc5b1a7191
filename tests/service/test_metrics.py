"""Metrics, as promtool and a Prometheus of this machine read them."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.service.running import Service, digests
from tests.waiting import wait_for

pytest.importorskip("prometheus_client")

_DOCUMENTATION = (Path(__file__).parents[2] / "docs/service.md").read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def exporting(command: Ocifs, image: Path, address: str) -> Iterator[Service]:
    command.output("service", "--metrics", address)
    service = Service(command, image)
    try:
        yield service
    finally:
        service.end()


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def _value(text: str, start: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return float(line.rpartition(" ")[2])


def test_the_metrics_of_a_mount_count_on_after_its_worker_died(command: Ocifs, image: Path) -> None:
    port = _free_port()
    with exporting(command, image, f"127.0.0.1:{port}") as service, service.mounted() as mountpoint:
        assert len(digests(mountpoint)) == 8
        label = f'{{mountpoint="{mountpoint}"}}'
        before = _scrape(port)
        assert {line.split()[2] for line in before.splitlines() if line.startswith("# TYPE ocifs")} == documented()
        service.kill_worker(mountpoint)
        after = _scrape(port)
        assert _value(before, f"ocifs_mount_restarts_total{label}") == 0
        assert _value(after, f"ocifs_mount_restarts_total{label}") == 1
        assert _value(before, f"ocifs_mount_read_bytes_total{label}") >= 8 << 20
        for name in ("reads_total", "read_bytes_total", "spans_decoded_total", "read_seconds_count"):
            assert _value(after, f"ocifs_mount_{name}{label}") >= _value(before, f"ocifs_mount_{name}{label}")
        assert _value(after, f"ocifs_mount_up{label}") == 1
        numbers = service.listed(mountpoint).numbers
        assert numbers is not None
        assert _value(_scrape(port), f"ocifs_mount_reads_total{label}") >= numbers.reads
        if shutil.which("promtool"):
            check = subprocess.run(
                ["promtool", "check", "metrics"], input=after, capture_output=True, text=True, check=False
            )
            assert (check.returncode, check.stdout, check.stderr) == (0, "", "")
        service.ocifs.output("service", "upgrade")
        wait_for(lambda: _answers(port))
        assert f"ocifs_mount_up{label} 1.0" in _scrape(port)


def documented() -> set[str]:
    """Return the metrics of the table in docs/service.md."""
    rows = re.findall(r"^\| (`ocifs_\S+`(?:, `ocifs_\S+`)*) \|", _DOCUMENTATION, re.MULTILINE)
    return {name for row in rows for name in re.findall("`(\\S+)`", row)}


def test_the_documented_rules_for_alerts_are_valid(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    (rules,) = re.findall(r"^```yaml\n(groups:\n.*?)^```$", _DOCUMENTATION, re.MULTILINE | re.DOTALL)
    file = tmp_path / "rules.yml"
    file.write_text(rules)
    check = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, ""), check
    assert f"{rules.count('alert:')} rules found" in check.stdout
    used = set(re.findall(r"ocifs_\w+", re.sub(r"annotations:.*", "", rules)))
    assert {name.removesuffix("_bucket") for name in used} <= documented()


def _answers(port: int) -> bool:
    try:
        return bool(_scrape(port))
    except OSError:
        return False


def test_metrics_at_a_unix_socket_are_for_root(command: Ocifs, image: Path) -> None:
    path = command.home / "metrics.sock"
    with exporting(command, image, f"unix:{path}"):
        assert path.stat().st_mode & 0o777 == 0o600
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(os.fspath(path))
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert (answer.status, b"# TYPE ocifs_mount_up gauge" in answer.read()) == (200, True)
        connection.close()


def test_a_prometheus_scrapes_them(command: Ocifs, image: Path, tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    port, own = _free_port(), _free_port()
    job = {"job_name": "ocifs", "scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    config = {"scrape_configs": [job]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    with exporting(command, image, f"127.0.0.1:{port}") as service, service.mounted() as mountpoint:
        server = subprocess.Popen(
            ["prometheus", "--config.file", tmp_path / "prometheus.yml", "--storage.tsdb.path", tmp_path / "data",
             "--web.listen-address", f"127.0.0.1:{own}", "--log.level", "error"],
        )  # fmt: skip
        try:
            wait_for(lambda: _query(own, "ocifs_mount_up") == {str(mountpoint): "1"}, 60)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def _query(port: int, name: str) -> dict[str, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={name}", timeout=10) as answer:
            result = json.loads(answer.read())["data"]["result"]
    except OSError:
        return {}
    return {each["metric"]["mountpoint"]: each["value"][1] for each in result}


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0:9000", "metrics are served to this machine only"),
        ("localhost:9000", "metrics are served to this machine only"),
        ("127.0.0.1", "write unix:PATH, or 127.0.0.1:PORT"),
        ("127.0.0.1:70000", "write unix:PATH, or 127.0.0.1:PORT"),
        ("unix:metrics.sock", "the path of a Unix socket is absolute"),
    ],
)
def test_an_address_that_others_could_reach_is_refused(command: Ocifs, address: str, why: str) -> None:
    result = command.run("service", "--metrics", address)
    assert (result.code, why in result.err) == (2, True), result


def test_an_address_in_use_is_an_error(command: Ocifs) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert command.complaint(7, "service", "--metrics", f"127.0.0.1:{port}") == (
            f"cannot serve metrics on 127.0.0.1:{port}: Address already in use"
        )
