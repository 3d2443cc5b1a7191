"""containerd with its CRI plugin, and the calls by which the kubelet runs a Pod with one container."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc

from ocifs.mount.mountinfo import is_below, mount_table
from tests.docs.toml_blocks import Table, containerd_1, containerd_2, merged, to_toml
from tests.snapshotter.releases import HERE, Release
from tests.waiting import wait_for

_ROOT = Path(__file__).parents[2]
_PATIENCE = 120.0
_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "runc", "catatonit")
_NODE = 2
MAPPED = 100000
"""The ID on the node of root in a user namespace."""

_NETWORK = """\
{"cniVersion": "1.0.0", "name": "none", "plugins": [{"type": "none"}]}
"""
_PLUGIN = """\
#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/none"}],
       "ips": [{"address": "192.0.2.2/24", "interface": 0}]}'
"""
"""A network plugin that makes no network."""

_LOCAL = {"plugins": {"io.containerd.cri.v1.images": {"disable_snapshot_annotations": False}}}
_RUNTIMES = {
    "plugins": {
        "io.containerd.grpc.v1.cri": {"containerd": {"runtimes": {"runc": {"runtime_type": "io.containerd.runc.v2"}}}}
    }
}
_CONFIGURATIONS: dict[str, Callable[[], Table]] = {
    "version 2": containerd_1,
    "version 2 with runtimes": lambda: merged(containerd_1(), _RUNTIMES),
    "version 3": lambda: merged(containerd_2(), _LOCAL),
    "version 3 with transfer": containerd_2,
}
"""Those of docs/kubernetes.md, by the version of the file, and whether the transfer service pulls."""


def _configuration(name: str, directory: Path, state: Path, snapshotter: Path, hosts: Path, pause: str) -> str:
    """Return a documented configuration as a file of containerd whose files are in `directory` and `state`."""
    documented = _CONFIGURATIONS[name]()
    runtime = {"restrict_oom_score_adj": True, "disable_apparmor": True}
    if documented["version"] == 2:
        cni: Table = {"conf_dir": f"{directory}/cni", "bin_dir": f"{directory}/bin"}
        registry = {"config_path": str(hosts)}
        cri: Table = {
            "io.containerd.grpc.v1.cri": {"sandbox_image": pause, **runtime, "cni": cni, "registry": registry}
        }
    else:
        cni = {"conf_dir": f"{directory}/cni", "bin_dirs": [f"{directory}/bin"]}
        cri = {
            "io.containerd.cri.v1.images": {
                "pinned_images": {"sandbox": pause}, "registry": {"config_path": str(hosts)},
            },
            "io.containerd.cri.v1.runtime": {**runtime, "cni": cni},
        }  # fmt: skip
    proxy: Table = {"address": str(snapshotter)}
    if "exports" in documented["proxy_plugins"]["ocifs"]:
        proxy["exports"] = {"root": f"{directory}/exported"}
    own = {
        "root": f"{directory}/root",
        "state": str(state / "containerd"),
        "grpc": {"address": f"{directory}/containerd.sock"},
        "ttrpc": {"address": f"{directory}/containerd.ttrpc"},
        "proxy_plugins": {"ocifs": proxy},
        "plugins": {"io.containerd.internal.v1.opt": {"path": f"{directory}/opt"}, **cri},
    }
    return to_toml(merged(documented, own))


def messages() -> ModuleType:
    """Return the messages of cri.proto."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as directory:
        name = "tests/snapshotter/cri.proto"
        assert protoc.main(["protoc", f"--proto_path={_ROOT}", f"--python_out={directory}", name]) == 0
        sys.path.insert(0, f"{directory}/tests/snapshotter")
        try:
            return importlib.import_module("cri_pb2")
        finally:
            sys.path.pop(0)


@dataclass
class Cri:
    """A client of CRI; `images` is where the kubelet sends requests for images."""

    pb: ModuleType
    directory: Path
    runtime: grpc.Channel
    images: grpc.Channel

    def call(self, channel: grpc.Channel, method: str, request: Any, answer: str = "Empty") -> Any:
        forward = channel.unary_unary(
            f"/runtime.v1.{method}",
            lambda message: message.SerializeToString(),
            getattr(self.pb, answer).FromString,
        )
        return forward(request, timeout=_PATIENCE)

    def pull(self, image: str, username: str = "", password: str = "") -> str:
        """Pull an image; return its ID."""
        auth = self.pb.AuthConfig(username=username, password=password) if username else None
        request = self.pb.PullImageRequest(image=self.pb.ImageSpec(image=image), auth=auth)
        return str(self.call(self.images, "ImageService/PullImage", request, "PullImageResponse").image_ref)

    @contextmanager
    def pod(self, name: str = "pod", *, mapped: bool = False) -> Iterator[tuple[str, Any]]:
        """Run a Pod in the network of the node, or in a user namespace; yield its ID and its configuration."""
        namespaces = self.pb.NamespaceOption(network=_NODE)
        if mapped:
            ids = [self.pb.IDMapping(host_id=MAPPED, container_id=0, length=65536)]
            namespaces = self.pb.NamespaceOption(userns_options=self.pb.UserNamespace(uids=ids, gids=ids))
        config = self.pb.SandboxConfig(
            metadata=self.pb.SandboxMetadata(name=name, uid=name, namespace="default"),
            log_directory=str(self.directory / "logs"),
            linux=self.pb.LinuxSandbox(security_context=self.pb.SandboxSecurity(namespace_options=namespaces)),
        )
        request = self.pb.RunPodSandboxRequest(config=config)
        made = self.call(self.runtime, "RuntimeService/RunPodSandbox", request, "SandboxId")
        try:
            yield made.pod_sandbox_id, config
        finally:
            for method in ("StopPodSandbox", "RemovePodSandbox"):
                self.call(self.runtime, f"RuntimeService/{method}", made)

    def run(self, image: str, *command: str, name: str = "container") -> tuple[int, str]:
        """Run a command in a container of its own Pod; return its exit status and output."""
        with self.pod(name) as (pod, sandbox):
            config = self.pb.ContainerConfig(
                metadata=self.pb.ContainerMetadata(name=name),
                image=self.pb.ImageSpec(image=image),
                command=command,
                log_path="log",
                linux=self.pb.LinuxContainer(
                    security_context=self.pb.ContainerSecurity(
                        namespace_options=self.pb.NamespaceOption(network=_NODE, pid=1)
                    )
                ),
            )
            request = self.pb.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=sandbox)
            made = self.call(self.runtime, "RuntimeService/CreateContainer", request, "ContainerId")
            self.call(self.runtime, "RuntimeService/StartContainer", made)
            deadline = time.monotonic() + _PATIENCE
            while True:
                status = self.call(
                    self.runtime, "RuntimeService/ContainerStatus", made, "ContainerStatusResponse"
                ).status
                if status.state not in {0, 1} or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            log = self.directory / "logs/log"
            lines = log.read_text().splitlines() if log.exists() else []
            log.unlink(missing_ok=True)
            return status.exit_code, "\n".join(line.split(" ", 3)[3] for line in lines)


@contextmanager
def containerd(
    directory: Path,
    snapshotter: Path,
    hosts: Path,
    pause: str,
    images: Path | None = None,
    release: Release = HERE,
    configuration: str = "version 2",
) -> Iterator[Cri]:
    """Run containerd with its files in `directory`, and yield a client; kill what it has started at the end.

    `images` is the socket for requests for images; None: containerd's own. `configuration` is one of _CONFIGURATIONS.
    """
    for program in _PROGRAMS:
        release.program(program)
    for name in ("logs", "cni", "bin"):
        (directory / name).mkdir(parents=True)
    (directory / "cni/none.conflist").write_text(_NETWORK)
    for name in ("none", "loopback"):
        (directory / "bin" / name).write_text(_PLUGIN)
        (directory / "bin" / name).chmod(0o755)
    state = Path(tempfile.mkdtemp(prefix="ocifs-test-"))
    state.chmod(0o711)  # root in a user namespace has to reach its file system
    config = directory / "config.toml"
    config.write_text(_configuration(configuration, directory, state, snapshotter, hosts, pause))
    socket = directory / "containerd.sock"
    command = [release.program("containerd"), "--config", str(config)]
    with (directory / "containerd.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=release.variables())
    try:
        with (
            grpc.insecure_channel(f"unix:{socket}") as runtime,
            grpc.insecure_channel(f"unix:{images or socket}") as image,
        ):
            client = Cri(messages(), directory, runtime, image)
            wait_for(lambda: socket.exists() and _is_ready(client, process), _PATIENCE)
            yield client
    finally:
        process.terminate()
        process.wait(30)
        for pid in shims(socket):
            os.kill(pid, signal.SIGKILL)
        for entry in reversed(mount_table()):
            if is_below(entry.mountpoint, str(directory)) or is_below(entry.mountpoint, str(state)):
                subprocess.run(["umount", "-l", entry.mountpoint], check=False)
        shutil.rmtree(state)


def shims(address: Path) -> list[int]:
    """Return the shims that the containerd at this socket has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"containerd-shim-runc-v2") and os.fsencode(address) in words:
                    found.append(int(entry.name))
    return found


def _is_ready(client: Cri, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, (client.directory / "containerd.log").read_text()[-2000:]
    try:
        client.call(client.runtime, "RuntimeService/Status", client.pb.Empty())
    except grpc.RpcError:
        return False
    return True
