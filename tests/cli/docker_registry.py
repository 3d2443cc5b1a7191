"""The registry that others use: Debian's docker-registry on loopback, with images that skopeo has pushed."""

import json
import math
import os
import re
import shutil
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.images import Image, digest

_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {directory}}}, delete: {{enabled: true}}}}
http: {{addr: "{host}"}}
"""
_LOGIN = """\
auth: {{htpasswd: {{realm: here, path: {file}}}}}
"""
USER, PASSWORD = "me", "s3cr3t-of-me"
_HTPASSWD = f"{USER}:$2y$04$V91hLTcOR03wFzxh4MiMe.EbyTHcSoKflIEmOkEb.7k1zevY2QEwy\n"
"""Made by htpasswd -B."""
_PATIENCE = 10


@contextmanager
def docker_registry(
    directory: Path, log: Path | None = None, *, login: bool = False, host: str | None = None
) -> Iterator[str]:
    """Run a registry that keeps its images below `directory`; yield its `HOST:PORT`. Requests are appended to `log`.

    With `login`, it is open to USER with PASSWORD only. `host` is the address of one that has ended.
    """
    for program in ("docker-registry", "skopeo"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing")
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = host or f"127.0.0.1:{free.getsockname()[1]}"
    config = directory / "config.yml"
    text = _CONFIG.format(directory=directory / "data", host=host)
    if login:
        (directory / "htpasswd").write_text(_HTPASSWD)
        text += _LOGIN.format(file=directory / "htpasswd")
    config.write_text(text)
    with (
        (log or Path(os.devnull)).open("ab") as output,
        subprocess.Popen(["docker-registry", "serve", config], stdout=output, stderr=output) as process,
    ):
        try:
            _wait_for(host)
            yield host
        finally:
            process.terminate()


def push(image: str, host: str, name: str, *options: str) -> None:
    """Copy an image that skopeo can read to `name` in the registry."""
    command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]
    subprocess.run([*command, *options, image, f"docker://{host}/{name}"], check=True)


def credentials(host: str, password: str = PASSWORD) -> str:
    """Return a config.json of Docker with the credentials for a registry."""
    return json.dumps({"auths": {host: {"auth": b64encode(f"{USER}:{password}".encode()).decode()}}})


class Answer(NamedTuple):
    """The answer to a GET request for a blob."""

    blob: str
    """Its digest."""
    status: int
    size: int
    """Bytes of the body: of all ranges of the request together."""
    agent: str
    """First word of the client's name."""


def blob_answers(log: Path, repository: str) -> list[Answer]:
    """Return the answers in the log of a registry to requests for blobs of a repository."""
    pattern = rf'"GET /v2/{repository}/blobs/(\S+) \S+" (\d+) (\d+) "[^"]*" "(\w*)'
    found = re.findall(pattern, log.read_text("latin-1"))
    return [Answer(blob, int(status), int(size), agent) for blob, status, size, agent in found]


def layer_answers(answers: Iterable[Answer], image: Image) -> list[Answer]:
    """Return the answers for layers of an image, without those that want a login."""
    layers = {digest(layer.blob) for layer in image.layers}
    return [each for each in answers if each.blob in layers and each.status != 401]


def whole_layers(answers: Iterable[Answer], image: Image) -> list[Answer]:
    """Return the answers that have a whole layer of an image, whatever ranges they are for."""
    sizes = {digest(layer.blob): len(layer.blob) for layer in image.layers}
    return [each for each in answers if each.size >= sizes.get(each.blob, math.inf)]


def _wait_for(host: str) -> None:
    address, _, port = host.partition(":")
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection((address, int(port)), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("docker-registry does not answer")
