"""Images in a registry, as a user names them."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocifs.spec.digest import Digest
from tests.cli.command import Ocifs
from tests.cli.docker_registry import docker_registry, push
from tests.depth import depth
from tests.images import Image, Layer, layout_files, tar, write_layout
from tests.registry import (
    SECRET,
    Registry,
    basic,
    bearer,
    cut,
    redirect,
    running,
    serving,
    slowly,
    stall,
    status,
    whole,
)

IMAGE = Image((Layer(tar({"etc": None, "etc/motd": b"hello\n"})), Layer(tar({"big": bytes(3_000_000)}), "zstd")))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("registry")
    with docker_registry(directory) as host:
        layout = write_layout(directory / "layout", IMAGE)
        push(f"oci:{layout}:latest", host, "team/app:1")
        yield host


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(IMAGE) as registry:
        yield registry


def open_files(process: "subprocess.Popen[bytes]") -> list[str]:
    return [os.readlink(each) for each in Path(f"/proc/{process.pid}/fd").iterdir() if each.is_symlink()]


def test_looking(ocifs: Ocifs, host: str) -> None:
    image = f"docker://{host}/team/app:1"
    assert ocifs.run("ls", image, "/").text == "big\netc\n"
    assert ocifs.run("cat", image, "/etc/motd").text == "hello\n"
    inspected = json.loads(ocifs.run("inspect", "--json", image).text)
    by_digest = f"docker://{host}/team/app@{inspected['digest']}"
    assert ocifs.run("ls", "--layer", "0", by_digest, "/etc").text == "motd\n"
    assert ocifs.run("history", by_digest).code == 0
    assert ocifs.run("verify", by_digest).code == 0
    assert ocifs.run("ls", f"{image}~1").text == "etc\n"


def test_mounting(ocifs: Ocifs, host: str, engine: str) -> None:
    with ocifs.mounted(f"docker://{host}/team/app:1", "--engine", engine) as mountpoint:
        assert (mountpoint / "etc/motd").read_bytes() == b"hello\n"
        assert (mountpoint / "big").read_bytes() == bytes(3_000_000)
        assert f"docker://{host}/team/app:1" in ocifs.output("mounts")


def test_publishing_an_index(ocifs: Ocifs, host: str, tmp_path: Path) -> None:
    image = f"docker://{host}/team/app:1"
    assert ocifs.output("index", "ls", image) == ""
    assert "no published index" in ocifs.complaint(3, "index", "pull", image)
    pushed = ocifs.output("index", "push", image)
    assert pushed.split()[0] == "ocifs"
    assert pushed.split()[2:4] == ["2", "layers"]
    assert ocifs.output("index", "ls", image) == pushed
    ocifs.output("cache", "clear")
    assert ocifs.output("index", "pull", image) == pushed
    assert ocifs.output("cat", image, "/etc/motd") == "hello\n"
    assert "layer2" not in ocifs.output("cache", "ls")
    assert ocifs.output("cat", "--no-trust-index", image, "/etc/motd") == "hello\n"
    assert "layer2" in ocifs.output("cache", "ls")
    assert ocifs.output("index", "rm", image) == f"removed {pushed.split()[1]}\n"
    assert ocifs.output("index", "ls", image) == ""


def test_publishing_for_soci(ocifs: Ocifs, host: str, tmp_path: Path) -> None:
    image = f"docker://{host}/team/soci:1"
    push(f"oci:{write_layout(tmp_path / 'layout', IMAGE)}:latest", host, "team/soci:1")
    refused = ocifs.complaint(5, "index", "push", "--format", "soci", image)
    assert "has no layer of 10485760 bytes or more that SOCI can represent" in refused
    ran = ocifs.run("index", "push", "--format", "soci", "--min-layer-size", "0", image)
    assert "is left out: SOCI cannot represent layers that are compressed with zstd" in ran.err
    assert ran.text.split()[0] == "soci-v1"
    assert ran.text.split()[2:4] == ["1", "layer"]
    assert ocifs.output("index", "ls", image) == ran.text
    (listed,) = json.loads(ocifs.output("index", "ls", "--json", image))
    assert (listed["format"], listed["bound"], listed["artifact"]) == ("soci-v1", False, ran.text.split()[1])
    ocifs.output("cache", "clear")
    assert ocifs.output("index", "pull", image) == ran.text
    assert "converted1" in ocifs.output("cache", "ls")
    assert ocifs.output("cat", image, "/etc/motd") == "hello\n"
    assert ocifs.output("index", "rm", image) == f"removed {ran.text.split()[1]}\n"
    assert ocifs.output("index", "ls", image) == ""


def test_converting_for_soci(ocifs: Ocifs, host: str) -> None:
    image = f"docker://{host}/team/app:1"
    size = ("--min-layer-size", "0")
    ran = ocifs.run("index", "push", "--format", "soci-v2", "--tag", "soci", *size, image)
    converted, index = (line.split() for line in ran.text.splitlines())
    assert converted[:2] == ["image", "soci"]
    other = f"docker://{host}/team/app:soci"
    assert ocifs.output("index", "ls", other).rstrip("\n") == "  ".join(
        ["soci-v2", index[1], "1 layer", " ".join(index[4:]), "bound"]
    )
    assert ocifs.output("index", "rm", other) == ""
    manifest = json.loads(ocifs.output("inspect", "--json", other))["digest"]
    ocifs.output("cache", "clear")
    assert ocifs.output("cat", f"docker://{host}/team/app@{manifest}", "/etc/motd") == "hello\n"
    assert "converted1" in ocifs.output("cache", "ls")
    inspected = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", other], check=True, capture_output=True, text=True
    )
    assert json.loads(inspected.stdout)["Architecture"] == "amd64"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "soci-v2"), "--tag is required"),
        (("--tag", "x"), "only allowed there"),
        (("--format", "soci", "--tag", "x"), "only allowed there"),
        (("--format", "soci-v2", "--tag", "a/b"), "a/b is not a valid tag"),
        (("--format", "zran"), "is not one of"),
    ],
)
def test_formats_that_cannot_be(ocifs: Ocifs, host: str, options: tuple[str, ...], message: str) -> None:
    ran = ocifs.run("index", "push", *options, f"docker://{host}/team/app:1")
    assert ran.code == 2
    assert message in ran.err


def test_skopeo_carries_an_index_from_a_layout_to_a_registry(ocifs: Ocifs, host: str, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", IMAGE)
    pushed = ocifs.output("index", "push", layout)
    tag = json.loads(ocifs.output("inspect", "--json", layout))["digest"].replace(":", "-")
    for name in ("latest", tag):
        push(f"oci:{layout}:{name}", host, f"carried:{name}")
    ocifs.output("cache", "clear")
    assert ocifs.output("index", "ls", f"docker://{host}/carried") == pushed
    assert ocifs.output("cat", f"docker://{host}/carried", "/etc/motd") == "hello\n"
    assert "ptree" in ocifs.output("cache", "ls")


def test_export(ocifs: Ocifs, host: str, tmp_path: Path) -> None:
    assert ocifs.run("export", f"docker://{host}/team/app:1", "--to-dir", tmp_path / "out").code == 0
    assert (tmp_path / "out/etc/motd").read_bytes() == b"hello\n"


@pytest.mark.parametrize(
    ("image", "code", "message"),
    [
        ("docker://{host}/team/app:2", 3, r"ocifs: {host} has no manifest 2 in team/app (MANIFEST_UNKNOWN)"),
        ("docker://127.0.0.1:1/app", 9, "ocifs: cannot connect to 127.0.0.1:1: connection refused"),
        ("docker://me:pw@{host}/team/app", 4, "ocifs: malformed name of an image in a registry: write docker://HOST"),
        ("docker://app", 3, "ocifs: app is a short name, and no registries.conf says what it is short for"),
    ],
)
def test_errors(ocifs: Ocifs, host: str, tmp_path: Path, image: str, code: int, message: str) -> None:
    if image == "docker://app":
        (tmp_path / "conf").touch()
        ocifs = Ocifs(ocifs.home, environment={**ocifs.environment, "CONTAINERS_REGISTRIES_CONF": f"{tmp_path}/conf"})
    result = ocifs.run("ls", image.format(host=host))
    assert result.code == code
    assert result.err.startswith(message.format(host=host))
    assert result.err.count("\n") == 1


def test_options(ocifs: Ocifs, registry: Registry, tmp_path: Path) -> None:
    registry.fault(basic("me", "pw"), "/v2/app/")
    image = f"docker://{registry.host}/app"
    assert ocifs.run("ls", image).code == 9
    assert ocifs.run("ls", "--creds", "me:pw", image).code == 0
    authfile = tmp_path / "auth.json"
    authfile.write_text(json.dumps({"auths": {registry.host: {"username": "me", "password": "pw"}}}))
    assert ocifs.run("ls", "--authfile", authfile, image).code == 0
    assert "no TLS connection" in ocifs.run("ls", "--tls-verify", "true", image).err
    assert "which --cert-dir names" in ocifs.run("ls", "--cert-dir", "/missing", image).err


def test_no_secret_is_told(ocifs: Ocifs, registry: Registry, tmp_path: Path) -> None:
    """Neither by what goes well nor by what does not, be it on the terminal, in the log or in the cache."""
    registry.fault(bearer("s3cr3t-token"), "/v2/app/manifests/")
    registry.tokens = lambda request: (200, {"token": "s3cr3t-token"})
    told = ""
    with running() as signed:
        signed.blobs = registry.blobs
        registry.fault(redirect(signed.base + "{path}?signature=" + SECRET))
        arguments = ("--creds", "me:s3cr3t-password", f"docker://{registry.host}/app")
        for code in (403, 404, 416, 418):
            signed.fault(status(code), times=100)
            told += ocifs.run("ls", *arguments).err
            signed.faults.clear()
        result = ocifs.run("ls", *arguments)
        assert (result.code, result.err) == (0, "")
    assert told.count("ocifs: ") == 4
    assert "s3cr3t" not in told
    for path in ocifs.home.rglob("*"):
        assert not path.is_file() or b"s3cr3t" not in path.read_bytes()


def test_interrupted(ocifs: Ocifs, registry: Registry) -> None:
    registry.fault(slowly(50), times=1, after=1)
    with ocifs.start("index", f"docker://{registry.host}/app") as process:
        while len(registry.sent) < 2:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.read() == b"ocifs: interrupted\n"
    assert process.returncode == 130
    assert ocifs.run("index", f"docker://{registry.host}/app").code == 0
    assert not [path for path in os.listdir(ocifs.cache / "entries") if path.endswith(".tmp")]


@pytest.mark.parametrize("again", [False, True])
def test_interrupted_while_nothing_comes(ocifs: Ocifs, registry: Registry, again: bool) -> None:
    registry.fault(stall, after=1)
    with ocifs.start("ls", f"docker://{registry.host}/app") as process:
        while len(registry.sent) < 2:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        if again:
            time.sleep(0.005)
            process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.read() == b"ocifs: interrupted\n"
    assert process.returncode in ({130, -signal.SIGINT} if again else {130})  # a shell has 130 of both


@pytest.mark.parametrize("what", ["/blobs/", "/manifests/"])
@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://127.0.0.1:99999/", "port 99999 is not a number from 1 to 65535"),
        ("http://[::1/", "it is malformed"),
        ("http://a..b/", "its host is neither a name nor an address"),
    ],
)
def test_malformed_redirects_end_it(ocifs: Ocifs, registry: Registry, what: str, location: str, message: str) -> None:
    registry.fault(redirect(location), what)
    said = ocifs.complaint(9, "ls", f"docker://{registry.host}/app")
    assert said == f"{registry.host} redirects to an unusable URL: {message}"


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_download_that_was_ended_goes_on_where_it_was(
    ocifs: Ocifs, registry: Registry, ending: signal.Signals
) -> None:
    """Killed at several points, one after the other, all in all it takes what it does anyway."""
    layer = Layer(tar({"random": os.urandom(6_000_000)}))
    image = registry.add("large", layout_files(Image((layer,))))
    blob = str(Digest.of(layer.blob))
    begun = ocifs.cache / "entries" / f"begun1-{blob.replace(':', '-')}-{len(layer.blob)}"
    registry.fault(slowly(2_000_000), blob)
    starts = [0]
    points = depth(4, 12)
    for point in range(points):
        with ocifs.start("index", image) as process:
            enough = starts[-1] + (len(layer.blob) - starts[-1]) // (points + 1 - point)
            while not begun.exists() or begun.stat().st_size < enough:
                assert process.poll() is None
            process.send_signal(ending)
            process.communicate()
        starts.append(begun.stat().st_size)
    assert "begun1" in ocifs.output("cache", "ls")
    assert ocifs.output("cat", image, "/random") == ocifs.output("cat", image, "/random")
    asked = [request.range for request in registry.sent if blob in request.path]
    assert asked == [f"bytes={start}-{len(layer.blob) - 1}" if start else "" for start in starts]
    assert "begun1" not in ocifs.output("cache", "ls")
    assert ocifs.run("verify", image).code == 0


def test_who_waits_for_a_download_that_is_killed_goes_on_with_it(ocifs: Ocifs, registry: Registry) -> None:
    layer = Layer(tar({"random": os.urandom(4_000_000)}))
    image = registry.add("large", layout_files(Image((layer,))))
    blob = str(Digest.of(layer.blob))
    begun = ocifs.cache / "entries" / f"begun1-{blob.replace(':', '-')}-{len(layer.blob)}"
    registry.fault(slowly(2_000_000), blob)
    processes = [ocifs.start("index", image) for _ in range(3)]
    while not begun.exists() or begun.stat().st_size < 1_000_000:
        assert processes[0].poll() is None
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    assert len([request for request in registry.sent if blob in request.path]) == 1
    max(processes, key=lambda each: open_files(each).count(str(begun))).kill()  # the others have it open for the lock
    for process in processes:  # all before any is waited for: each may hold what another one wants
        process.send_signal(signal.SIGCONT)
    for process in processes:
        process.communicate(timeout=60)
    assert sorted(process.returncode for process in processes) == [-9, 0, 0]
    _, again = [request.range for request in registry.sent if blob in request.path]
    assert int(again[6:].partition("-")[0]) >= 1_000_000


def test_what_is_left_of_a_download_from_a_registry_without_ranges(ocifs: Ocifs, registry: Registry) -> None:
    layer = Layer(tar({"random": os.urandom(2_000_000)}))
    image = registry.add("large", layout_files(Image((layer,))))
    name = f"begun1-{str(Digest.of(layer.blob)).replace(':', '-')}-{len(layer.blob)}"
    begun = ocifs.cache / "entries" / name
    registry.fault(cut(1_000_000), "blobs", times=1, after=1)
    registry.fault(status(404), "blobs", times=1, after=1)
    assert ocifs.run("index", image).code == 3
    assert 0 < begun.stat().st_size <= 1_000_000
    registry.fault(whole)
    assert ocifs.run("index", image).code == 0
    assert ocifs.run("verify", image).code == 0


@pytest.mark.parametrize("stalled", ["the index", "the layer"])
@pytest.mark.parametrize("form", ["ocifs", "soci"])
def test_interrupted_while_an_index_comes(ocifs: Ocifs, registry: Registry, form: str, stalled: str) -> None:
    image = f"docker://{registry.host}/app"
    ocifs.run("index", "push", "--format", form, "--min-layer-size", "0", image)
    (listed, *_) = json.loads(ocifs.output("index", "ls", "--json", image))
    ocifs.output("cache", "clear")
    registry.fault(stall, listed["digest" if stalled == "the index" else "layer"])
    registry.requests.clear()
    began = time.monotonic()
    with ocifs.start("cat", image, "/etc/motd") as process:
        while not any(listed["digest" if stalled == "the index" else "layer"] in each.path for each in registry.sent):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert time.monotonic() - began < 10


def test_local_images_cost_no_http(ocifs: Ocifs, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", IMAGE)
    command = ocifs.command("ls", layout)
    command.insert(1, "-Ximporttime")
    told = subprocess.run(command, env=ocifs.variables(), capture_output=True, text=True, check=True).stderr
    assert "ocifs.image.opening" in told
    assert not [line for line in told.splitlines() if line.endswith(("urllib3", "tomllib", "http.client"))]
