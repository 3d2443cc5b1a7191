"""The registry that others use: Debian's docker-registry on loopback, with images that skopeo has pushed."""

import json
import os
import shutil
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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
