"""Diagnose a node: find containerd, the kubelet and the snapshotter, and judge their configuration.

Files are read below a root directory, which tests replace; processes and sockets are those of this machine.
"""

import contextlib
import importlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from ocifs.errors import OcifsError, missing_extra, printable_path
from ocifs.options import Options
from ocifs.snapshotter.check.containerd import Expected, check_containerd, check_docker
from ocifs.snapshotter.check.containerd_config import ContainerdConfig, Version, parse_version, read_config
from ocifs.snapshotter.check.finding import Finding, error, ok, warning
from ocifs.snapshotter.settings import DEFAULT_CONTAINERD
from ocifs.spec.document import shown

_CONFIGS: Final = (
    "/etc/containerd/config.toml",
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
)
_SOCKETS: Final = (str(DEFAULT_CONTAINERD), "/run/k3s/containerd/containerd.sock")
_EROFS_FROM_FILES: Final = (6, 12)
_PATIENCE: Final = 5.0
"""Seconds to wait for a program or a socket."""
_MAX_FILE: Final = 1 << 20
_ENDPOINT: Final = re.compile(r"""^[ {]*"?imageServiceEndpoint"?: *["']?([^"'\s,}]+)""", re.MULTILINE)


class RunningProcess(NamedTuple):
    """A process of this machine."""

    name: str
    """Last component of its program, as it was called."""
    arguments: tuple[str, ...]

    def option(self, *names: str) -> str | None:
        """Return the value of the option that has one of these names."""
        for place, word in enumerate(self.arguments):
            key, equals, value = word.partition("=")
            if key in names:
                return value if equals else next(iter(self.arguments[place + 1 :]), None)
        return None


def running_processes() -> list[RunningProcess]:
    """Return the processes of this machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
                found.append(RunningProcess(os.path.basename(words[0]), tuple(words[1:])))
    return found


def fuse_engine_problem() -> str | None:
    """Return why this installation cannot use the fuse engine; None: it can."""
    try:
        importlib.import_module("ocifs.mount.fuse_engine")
    except ImportError as failure:
        return str(missing_extra(failure) or f"the fuse engine cannot be loaded: {failure}")
    return None


class NodeCheck:
    """The programs that are installed and run on a node."""

    def __init__(
        self,
        root: Path = Path("/"),
        processes: Sequence[RunningProcess] = (),
        config: Path | None = None,
        fuse_engine: Callable[[], str | None] = fuse_engine_problem,
    ) -> None:
        """Describe a node.

        `config` is containerd's configuration file; None: that of the running containerd, or the default one.
        `fuse_engine` returns why the fuse engine cannot be used; None: it can.
        """
        self._fuse_engine = fuse_engine
        self._root = root
        self._processes = processes
        self._config = config

    @property
    def has_kubelet(self) -> bool:
        """Whether it runs Pods."""
        return any(each.name in {"kubelet", "k3s", "k3s-server", "k3s-agent", "rke2"} for each in self._processes)

    def config_file(self) -> Path | None:
        """Return containerd's configuration file; None: it has none."""
        if self._config is not None:
            return self._config
        for process in self._processes:
            if process.name == "containerd" and (named := process.option("-c", "--config")):
                return Path(named)
        return next((self._at(each) for each in _CONFIGS if self._at(each).exists()), None)

    def index_up_to(self) -> str | None:
        """Return the option of the running snapshotter; None: it has its default, or none runs."""
        for process in self._processes:
            programs = map(os.path.basename, (process.name, *process.arguments[:1]))
            if "ocifs" in programs and "snapshotter" in process.arguments:
                return process.option("--index-up-to")
        return None

    def findings(self, expected: Expected, options: Options, images: Sequence[str] = ()) -> Iterator[Finding]:
        """Yield all findings; `images` are looked up in their registries as `options` say."""
        yield from self.kernel()
        yield from self.containerd(expected)
        yield from self.docker(expected)
        yield from self.kubelet(expected)
        yield from _snapshotter(expected)
        yield from _hosts(expected.hosts_dir)
        for image in images:
            yield _registry(image, options, expected)

    def kernel(self) -> Iterator[Finding]:
        """Yield findings about the kernel, and about the engines that can mount images on it."""
        release = self._text("/proc/sys/kernel/osrelease").strip() or os.uname().release
        linux = f"Linux {shown(release, 60)}"
        for name, effect in (("overlay", "no container can run"), ("fuse", "nothing can be mounted")):
            if not self._has_file_system(release, name):
                yield error("kernel", f"{linux} has no {name}, so {effect}", f"modprobe {name}")
        if not self._at("/dev/fuse").exists():
            yield error("kernel", "/dev/fuse is missing, so nothing can be mounted", "modprobe fuse")
            return
        lacking, advice = self._erofs_problem(release)
        if not lacking:
            yield ok("kernel", f"{linux} can mount EROFS from a file")
        elif (problem := self._fuse_engine()) is None:
            yield warning("kernel", f"{linux} {lacking}, so the fuse engine serves images, which is slower", advice)
        else:
            why = problem.partition(": ")[0]
            yield error(
                "kernel",
                f"{linux} {lacking}, and {why}, so containerd unpacks all images",
                f"{advice}, or install the extra fuse of ocifs (pip install 'ocifs[fuse]')",
            )

    def _erofs_problem(self, release: str) -> tuple[str, str]:
        """Return what the kernel lacks for the erofs engine, and what to do about it; empty: nothing."""
        if not self._has_file_system(release, "erofs"):
            return "has no erofs", "modprobe erofs"
        is_old = (parse_version(release) or (0, 0)) < _EROFS_FROM_FILES
        if is_old or "# CONFIG_EROFS_FS_BACKED_BY_FILE is not set" in self._text(f"/boot/config-{release}"):
            advice = "use Linux 6.12 or later with CONFIG_EROFS_FS_BACKED_BY_FILE"
            return "cannot mount EROFS from a file", advice
        return "", ""

    def containerd(self, expected: Expected) -> Iterator[Finding]:
        """Yield findings about containerd."""
        path = self.config_file()
        version = self._version(path)
        if version is None and path is None:
            yield error("containerd", "it is not installed", "install containerd 1.6 or later")
            return
        if not any(each.name == "containerd" for each in self._processes):
            yield warning("containerd", "it is not running", "systemctl start containerd")
        if path is None:
            path = Path(_CONFIGS[0])
            values: dict[str, Any] = {"version": 2}
        else:
            try:
                values = read_config(path)
            except OcifsError as failure:
                yield error("containerd", str(failure), "repair the file")
                return
        guessed = (2, 1) if values.get("version") == 3 else (1, 7)
        if "rancher" in path.parts:
            where = "config.toml.tmpl beside it (config-v3.toml.tmpl since k3s 1.32)"
            yield ok("containerd", f"k3s writes {printable_path(str(path))}: change {where} instead")
        yield from check_containerd(ContainerdConfig(values, version or guessed), path, expected)

    def docker(self, expected: Expected) -> Iterator[Finding]:
        """Yield findings about Docker."""
        text = self._text("/etc/docker/daemon.json")
        if text.strip():
            try:
                yield from check_docker(json.loads(text), expected)
            except (ValueError, RecursionError):
                yield warning("Docker", "/etc/docker/daemon.json is malformed", "repair the file")

    def kubelet(self, expected: Expected) -> Iterator[Finding]:
        """Yield findings about the kubelet's endpoint for images, from which the snapshotter has credentials."""
        for process in self._processes:
            if process.name == "kubelet":
                endpoint = process.option("--image-service-endpoint") or self._configured_endpoint(process)
                if endpoint is None:
                    yield warning(
                        "kubelet",
                        "it pulls from containerd directly, so ocifs has no credentials of imagePullSecrets",
                        "start ocifs snapshotter with --image-service, and kubelet with --image-service-endpoint",
                    )
                elif not Path(endpoint.removeprefix("unix://")).is_socket():
                    yield error(
                        "kubelet",
                        f"its --image-service-endpoint {shown(endpoint, 200)} does not exist",
                        "start ocifs snapshotter with that --image-service",
                    )
                else:
                    yield ok("kubelet", f"pulls through {shown(endpoint, 200)}")

    def _configured_endpoint(self, kubelet: RunningProcess) -> str | None:
        """Return the endpoint in the kubelet's configuration file, which is YAML with one such line, or JSON."""
        match = _ENDPOINT.search(self._text(kubelet.option("--config") or "/var/lib/kubelet/config.yaml"))
        return match[1] if match else None

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _text(self, path: str) -> str:
        """Return a file; "" if it cannot be read."""
        try:
            with self._at(path).open("rb") as file:
                return file.read(_MAX_FILE).decode(errors="replace")
        except OSError:
            return ""

    def _has_file_system(self, release: str, name: str) -> bool:
        return name in self._text("/proc/filesystems").split() or self._has_module(release, name)

    def _has_module(self, release: str, name: str) -> bool:
        directory = self._at(f"/lib/modules/{release}/kernel/fs")
        return "/" not in release and any(directory.glob(f"*/{name}.ko*"))

    def _version(self, config: Path | None) -> Version | None:
        """Return the version of the running containerd, else of the installed one."""
        if self._root != Path("/"):
            return None
        sockets = list(_SOCKETS)
        for process in self._processes:
            if process.name == "containerd" and (named := process.option("-a", "--address")):
                sockets.insert(0, named)
        with contextlib.suppress(OcifsError):
            if config is not None:
                grpc = read_config(config).get("grpc")
                sockets.insert(0, str(grpc.get("address", "")) if isinstance(grpc, dict) else "")
        for socket in sockets:
            if socket and Path(socket).is_socket() and (text := _asked_version(socket)):
                return parse_version(text)
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            program = ["containerd", "--version"]
            ran = subprocess.run(program, capture_output=True, text=True, check=False, timeout=_PATIENCE)
            return parse_version(ran.stdout)
        return None


def _asked_version(socket: str) -> str:
    """Return the answer of containerd's version service; "" without one."""
    try:
        from ocifs.snapshotter.check.sockets import containerd_version

        return containerd_version(socket, _PATIENCE)
    except (ImportError, OcifsError):
        return ""


def _snapshotter(expected: Expected) -> Iterator[Finding]:
    """Yield findings about the socket of the snapshotter, and the service that keeps its mounts."""
    from ocifs.service.connection import connect

    address = printable_path(str(expected.address))
    start = "systemctl enable --now ocifs-snapshotter, or run `ocifs snapshotter`"
    try:
        from ocifs.snapshotter.check.sockets import ask_snapshotter
    except ImportError as failure:
        yield error("snapshotter", str(missing_extra(failure) or failure), "install it, and start the snapshotter")
    else:
        try:
            if expected.address.exists():
                ask_snapshotter(str(expected.address), _PATIENCE)
                yield ok("snapshotter", f"answers at {address}")
            else:
                yield error("snapshotter", f"it does not run: there is no {address}", start)
        except OcifsError as failure:
            yield error("snapshotter", f"no answer at {address}: {failure}", start)
    if (connection := connect()) is None:
        yield warning(
            "service",
            "it does not run, so a mount ends with its process",
            "systemctl enable --now ocifs",
        )
    else:
        connection.close()
        yield ok("service", "runs, so mounts survive their processes")


def _hosts(directory: Path) -> Iterator[Finding]:
    """Yield findings about hosts.toml files."""
    from ocifs.sources.registry.hosts import host_endpoints, unknown_fields

    try:
        names = sorted(each.name for each in directory.iterdir() if each.is_dir())
    except OSError:
        return
    for name in names:
        registry = "registry.invalid" if name == "_default" else name.removesuffix("_")
        if name != registry:
            registry = ":".join(registry.rsplit("_", 1))
        path = printable_path(str(directory / name / "hosts.toml"))
        try:
            host_endpoints(directory, f"{registry}/image")
            unknown = unknown_fields(directory / name)
        except OcifsError as failure:
            yield error("hosts.toml", str(failure), "correct it: until then ocifs serves no images of that registry")
            continue
        if unknown:
            keys = ", ".join(shown(each, 40) for each in unknown[:5])
            yield warning("hosts.toml", f"{path} has keys that ocifs does not know", f"check the spelling of {keys}")
        else:
            yield ok("hosts.toml", path)


def _registry(image: str, options: Options, expected: Expected) -> Finding:
    """Return whether a pull of this image would be lazy. The credentials of the last pull count, as for a pull."""
    from ocifs.snapshotter.keychain_socket import SOCKET
    from ocifs.snapshotter.requested_image import find_requested
    from ocifs.sources.reference import parse_reference, unconfigured
    from ocifs.sources.registry.keychain import ask
    from ocifs.sources.registry.peer import KeychainEntry

    name = printable_path(image)
    try:
        reference = parse_reference(f"docker://{image.removeprefix('docker://')}", lambda path: False)
        kept = ask(KeychainEntry(str(expected.root / SOCKET), unconfigured(reference.path, "")[0]))
        access = replace(options.access, provided=kept)
        with find_requested(reference, options, lambda reference: access) as found:
            layers = len(found.resolved.layers)
            without = found.unindexed
            size = sum(layer.descriptor.size for layer in without)
    except OcifsError as failure:
        return error(
            "registry",
            f"{name}: {failure}",
            "repair access to the registry; ocifs knows the imagePullSecrets of a Pod after its pull only, if kubelet "
            "pulls through --image-service: before that, use --authfile or --creds here",
        )
    missing = f"{name}: {len(without)} of {layers} layers, with {size} bytes, have no index"
    if size > expected.index_up_to:
        return warning(
            "registry",
            f"{missing}, more than --index-up-to={expected.index_up_to}: containerd unpacks the image",
            f"publish one with `ocifs index push docker://{name.removeprefix('docker://')}`",
        )
    if without:
        return ok("registry", f"{missing}: ocifs indexes them during the pull, and serves the image lazily")
    return ok("registry", f"{name}: layers with an index: {layers} of {layers}, so it is served lazily")
