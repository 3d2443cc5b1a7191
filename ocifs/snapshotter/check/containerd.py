"""Judge containerd's configuration: whether it uses the snapshotter, and tells it which image a layer belongs to.

Facts by version: CRI sends annotations if `disable_snapshot_annotations` is false; the default is true. Since 2.1, CRI
pulls through the transfer service. That one sends them if the proxy plugin exports
`enable_remote_snapshot_annotations`, and only unpacks for the snapshotters in its `unpack_config`. But some settings,
`disable_snapshot_annotations` included, make CRI pull by itself as before (containerd, docs/cri/config.md).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from ocifs.errors import printable_path
from ocifs.snapshotter.check.containerd_config import ContainerdConfig
from ocifs.snapshotter.check.finding import Finding, error, ok, warning
from ocifs.snapshotter.settings import DEFAULT_INDEX_UP_TO
from ocifs.spec.document import shown

_TRANSFER_PULLS: Final = (2, 1)
_OLDEST: Final = (1, 6)
_REMAPS: Final = "remap-ids"
_CONFIGURE: Final = "see docs/kubernetes.md"


class Expected(NamedTuple):
    """The settings that containerd should have."""

    name: str
    """Of the snapshotter, such as `ocifs`."""
    address: Path
    """Its socket."""
    root: Path
    """Its directory."""
    hosts_dir: Path
    """Where it reads hosts.toml files."""
    has_kubelet: bool
    """Whether the node runs Pods."""
    index_up_to: int = DEFAULT_INDEX_UP_TO
    """Most compressed bytes of layers without an index that the snapshotter indexes itself."""


def check_containerd(config: ContainerdConfig, path: Path, expected: Expected) -> Iterator[Finding]:
    """Yield the findings about a configuration, which was read from `path`."""
    major, minor = config.containerd
    if config.containerd < _OLDEST:
        yield warning(
            "containerd", f"version {major}.{minor} is older than 1.6", "ocifs is not tested with it: upgrade"
        )
    if config.version >= 3 and config.containerd < (2, 0):
        yield error(
            "containerd",
            f"{printable_path(str(path))} has version = {config.version}, which containerd {major}.{minor} cannot read",
            "write version = 2",
        )
        return
    for name in config.misnamed:
        yield error(
            "containerd",
            f"containerd cannot start with '{shown(name, 60)}' in disabled_plugins of a file of version "
            f"{config.version}",
            f"write 'io.containerd.grpc.v1.{shown(name, 60)}'",
        )
    yield from _proxy_plugin(config, path, expected)
    if config.has_cri:
        yield from _cri(config, expected)
        yield from _registries(config, expected)
    else:
        level = error if expected.has_kubelet else warning
        yield level(
            "CRI",
            "its plugin is disabled in containerd",
            "if Pods run here, remove cri from disabled_plugins",
        )


def _proxy_plugin(config: ContainerdConfig, path: Path, expected: Expected) -> Iterator[Finding]:
    name, section = expected.name, f"[proxy_plugins.{expected.name}]"
    plugin = config.proxy_plugins.get(name)
    add = f'add it with type = "snapshot" and address = "{expected.address}", and restart containerd'
    if not isinstance(plugin, dict):
        yield error("containerd", f"{printable_path(str(path))} has no section {section}", add)
        return
    if plugin.get("type") != "snapshot":
        yield error("containerd", f"{section} has another type than snapshot", 'write type = "snapshot"')
    address = str(plugin.get("address", ""))
    if address.removeprefix("unix://") != str(expected.address):
        yield error(
            "containerd",
            f"{section} has address '{shown(address, 200)}', not that of ocifs",
            f'write address = "{expected.address}", or start ocifs snapshotter with that --address',
        )
    else:
        yield ok("containerd", f"{section} connects to {expected.address}")
    if config.containerd >= (2, 0) and not plugin_exports(plugin).get("root"):
        yield warning(
            "containerd",
            f"{section} does not export its directory, so kubelet does not count its disk space",
            f'write [proxy_plugins.{name}.exports] with root = "{expected.root}"',
        )
    capabilities = plugin.get("capabilities")
    if config.containerd >= (2, 0) and not (isinstance(capabilities, list) and _REMAPS in capabilities):
        yield warning(
            "containerd",
            f"{section} does not tell containerd that ocifs maps owners, so it copies whole images for Pods in user "
            "namespaces, which then do not start",
            f'write capabilities = ["{_REMAPS}"] in {section}',
        )


def _cri(config: ContainerdConfig, expected: Expected) -> Iterator[Finding]:
    images, section = config.cri_images, config.cri_images_section
    major, minor = config.containerd
    if ignored := config.ignored_cri_section:
        yield warning(
            "CRI",
            f"containerd {major}.{minor} ignores {ignored} in a file of version {config.version}",
            f"move its settings to {section}",
        )
    if config.loses_cri_images:
        yield error(
            "CRI",
            f"containerd {major}.{minor} drops {section} of a file of version {config.version} without runtimes",
            f"write a file of version 3, or add {section[:-1]}.runtimes.runc] with "
            'runtime_type = "io.containerd.runc.v2"',
        )
        return
    snapshotter = images.get("snapshotter", "overlayfs")
    if snapshotter != expected.name:
        level = error if expected.has_kubelet else warning
        yield level(
            "CRI",
            f"{section} has snapshotter '{shown(str(snapshotter), 60)}', so Pods do not use ocifs",
            f'write snapshotter = "{expected.name}"',
        )
    else:
        yield from _annotations(config, expected)
    for name, runtime in config.runtimes.items():
        other = runtime.get("snapshotter") if isinstance(runtime, dict) else None
        if other and other != expected.name:
            yield warning(
                "CRI",
                f"Pods of the runtime {shown(name, 60)} use snapshotter '{shown(str(other), 60)}'",
                "to let them use ocifs, remove it from the section of the runtime",
            )


def _annotations(config: ContainerdConfig, expected: Expected) -> Iterator[Finding]:
    images, section = config.cri_images, config.cri_images_section
    sent = images.get("disable_snapshot_annotations") is False
    local = config.containerd < _TRANSFER_PULLS or images.get("use_local_image_pull") is True or _falls_back(config)
    if local and not sent:
        yield error(
            "CRI",
            "containerd does not tell ocifs which image a layer belongs to, so it unpacks all images",
            f"write disable_snapshot_annotations = false in {section}",
        )
    elif local:
        yield ok("CRI", f"pulls with {expected.name}, with annotations")
    else:
        yield from _transfer(config, expected)


def _transfer(config: ContainerdConfig, expected: Expected) -> Iterator[Finding]:
    """Yield the findings about pulls through the transfer service."""
    plugin = config.proxy_plugins.get(expected.name)
    exports = plugin_exports(plugin) if isinstance(plugin, dict) else {}
    good = True
    if str(exports.get("enable_remote_snapshot_annotations")).lower() != "true":
        good = False
        yield error(
            "CRI",
            "the transfer service does not tell ocifs which image a layer belongs to, so containerd unpacks all images",
            f'write enable_remote_snapshot_annotations = "true" in [proxy_plugins.{expected.name}.exports], or '
            f"disable_snapshot_annotations = false in {config.cri_images_section}",
        )
    if expected.name not in config.unpacked_by_transfer:
        good = False
        yield error(
            "CRI",
            f"the transfer service has no unpack_config for {expected.name}, so pulls fail",
            f'add [[plugins."io.containerd.transfer.v1.local".unpack_config]] with platform = "linux" and '
            f'snapshotter = "{expected.name}"',
        )
    if good:
        yield ok("CRI", f"pulls with {expected.name} through the transfer service, with annotations")


def _falls_back(config: ContainerdConfig) -> bool:
    """Return whether settings that the transfer service lacks make CRI of containerd 2.1 and later pull by itself."""
    images, registry = config.cri_images, config.registry
    return bool(
        images.get("disable_snapshot_annotations") is False
        or images.get("discard_unpacked_layers")
        or images.get("image_pull_with_sync_fs")
        or images.get("max_concurrent_downloads", 3) != 3
        or registry.get("mirrors")
        or registry.get("configs")
        or registry.get("auths")
    )


def _registries(config: ContainerdConfig, expected: Expected) -> Iterator[Finding]:
    directories = [each for each in str(config.registry.get("config_path", "")).split(":") if each]
    if config.registry.get("mirrors") or config.registry.get("configs"):
        yield warning(
            "registries",
            "containerd's registry.mirrors and registry.configs are deprecated, and ocifs does not read them",
            f"move them to hosts.toml files in {expected.hosts_dir}, and set config_path",
        )
    if directories and str(expected.hosts_dir) not in {each.rstrip("/") for each in directories}:
        yield warning(
            "registries",
            f"containerd reads hosts.toml files in {shown(directories[0], 200)}, ocifs in {expected.hosts_dir}",
            f"start ocifs snapshotter with --hosts-dir {shown(directories[0], 200)}",
        )
    elif not directories and any(expected.hosts_dir.glob("*/hosts.toml")):
        yield warning(
            "registries",
            f"ocifs reads hosts.toml files in {expected.hosts_dir}, containerd does not",
            f'set registry.config_path = "{expected.hosts_dir}"',
        )


def plugin_exports(plugin: dict[str, Any]) -> dict[str, Any]:
    """Return the exports of a proxy plugin."""
    exports = plugin.get("exports")
    return exports if isinstance(exports, dict) else {}


def check_docker(document: object, expected: Expected) -> Iterator[Finding]:
    """Yield the findings about the content of Docker's daemon.json; none if it does not concern ocifs."""
    values = document if isinstance(document, dict) else {}
    features = values.get("features")
    enabled = isinstance(features, dict) and features.get("containerd-snapshotter") is True
    driver = values.get("storage-driver")
    if driver == expected.name and not enabled:
        yield error(
            "Docker",
            f"daemon.json has storage-driver {expected.name!r} without containerd's image store",
            'write "features": {"containerd-snapshotter": true}, and restart Docker',
        )
    elif driver == expected.name:
        yield ok("Docker", f"uses {expected.name}")
    elif enabled:
        yield warning(
            "Docker",
            f"uses containerd's image store with snapshotter '{shown(str(driver or 'overlayfs'), 60)}'",
            f'write "storage-driver": "{expected.name}" in daemon.json to let its containers use ocifs',
        )
