"""containerd's configuration: a TOML file and its imports (containerd-config.toml(5)).

An imported file replaces whole sections of plugins, and adds to lists. The identifiers of plugins depend on the
version of the file; `ContainerdConfig` hides that. Nothing here judges a value.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ocifs.errors import OcifsError, printable_path
from ocifs.spec.document import shown

_MAX_FILE = 1 << 20
_IMPORTS_MAX = 64
_VERSION = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})(?:\.[0-9].*)?", re.ASCII)
_STARS = re.compile(r"\*+")

Version = tuple[int, int]
"""Major and minor."""

_CRI_OF_1 = "io.containerd.grpc.v1.cri"
_CRI_IMAGES = "io.containerd.cri.v1.images"
_CRI_RUNTIME = "io.containerd.cri.v1.runtime"
_TRANSFER = "io.containerd.transfer.v1.local"


class ContainerdConfig(NamedTuple):
    """A merged configuration, as containerd of that version reads it."""

    values: Mapping[str, Any]
    containerd: Version

    @property
    def version(self) -> int:
        """Version of the file: the identifiers in it."""
        version = self.values.get("version", 1)
        return version if isinstance(version, int) else 1

    @property
    def proxy_plugins(self) -> Mapping[str, Any]:
        """The plugins in other processes, by name."""
        return _table(self.values, "proxy_plugins")

    @property
    def has_cri(self) -> bool:
        """Whether the CRI plugin is enabled."""
        return not {"cri", _CRI_OF_1, _CRI_IMAGES, _CRI_RUNTIME} & set(self._disabled)

    @property
    def misnamed(self) -> list[str]:
        """The disabled plugins whose names are those of version 1, with which containerd refuses a later file."""
        return [each for each in self._disabled if self.version >= 2 and not each.startswith("io.containerd.")]

    @property
    def cri_images(self) -> Mapping[str, Any]:
        """Settings of the CRI plugin for images: `snapshotter`, `disable_snapshot_annotations`."""
        if self._is_new:
            return self._plugin(_CRI_IMAGES)
        return _table(self._old_cri, "containerd")

    @property
    def cri_images_section(self) -> str:
        """The name of the section of `cri_images`."""
        if self._is_new:
            return f'[plugins."{_CRI_IMAGES}"]'
        name = "cri" if self.version < 2 else f'"{_CRI_OF_1}"'
        return f"[plugins.{name}.containerd]"

    @property
    def ignored_cri_section(self) -> str | None:
        """A section with settings for images that this containerd does not read, such as one of another version."""
        if self._is_new and _table(self._plugin(_CRI_OF_1), "containerd"):
            return f'[plugins."{_CRI_OF_1}".containerd]'
        if not self._is_new and self._plugin(_CRI_IMAGES):
            return f'[plugins."{_CRI_IMAGES}"]'
        return None

    @property
    def loses_cri_images(self) -> bool:
        """Whether containerd drops `cri_images` when it migrates a file of version 2: it needs runtimes beside them.

        Seen in containerd 2.1.9; `containerd config dump` shows it.
        """
        return self.containerd >= (2, 0) and not self._is_new and bool(self.cri_images) and not self.runtimes

    @property
    def registry(self) -> Mapping[str, Any]:
        """Settings of the CRI plugin for registries."""
        return _table(self._plugin(_CRI_IMAGES) if self._is_new else self._old_cri, "registry")

    @property
    def runtimes(self) -> Mapping[str, Any]:
        """The runtimes of the CRI plugin, by name."""
        cri = self._plugin(_CRI_RUNTIME) if self._is_new else self._old_cri
        return _table(_table(cri, "containerd"), "runtimes")

    @property
    def unpacked_by_transfer(self) -> set[str]:
        """The snapshotters that the transfer service unpacks for."""
        found = self._plugin(_TRANSFER).get("unpack_config", [])
        return {str(each.get("snapshotter")) for each in found if isinstance(each, dict)}

    @property
    def _disabled(self) -> list[str]:
        disabled = self.values.get("disabled_plugins", [])
        return [str(each) for each in disabled] if isinstance(disabled, list) else []

    @property
    def _is_new(self) -> bool:
        return self.version >= 3 and self.containerd >= (2, 0)

    @property
    def _old_cri(self) -> Mapping[str, Any]:
        return self._plugin("cri" if self.version < 2 else _CRI_OF_1)

    def _plugin(self, identifier: str) -> Mapping[str, Any]:
        return _table(_table(self.values, "plugins"), identifier)


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a configuration file and its imports.

    Raises:
        OcifsError: One cannot be read, is malformed, or there are too many.
    """
    read: list[Path] = []
    return _read(path, read)


def _read(path: Path, read: list[Path]) -> dict[str, Any]:
    if len(read) == _IMPORTS_MAX:
        raise OcifsError(f"{printable_path(str(path))}: containerd's configuration has more than {_IMPORTS_MAX} files")
    read.append(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise OcifsError(f"cannot use {printable_path(str(path))}: it is larger than {_MAX_FILE} bytes")
        values = tomllib.loads(data.decode())
    except (OSError, ValueError, RecursionError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else shown(str(failure))
        raise OcifsError(f"cannot use {printable_path(str(path))}: {reason}") from None
    for imported in _imports(path, values):
        if imported not in read:
            _merge(values, _read(imported, read))
    return values


def _imports(path: Path, values: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files that a file imports; a pattern stands for those that match. Raises OcifsError."""
    imports = values.get("imports", [])
    for pattern in imports if isinstance(imports, list) else []:
        if isinstance(pattern, str) and pattern:
            base = Path("/") if pattern.startswith("/") else path.parent
            name = _STARS.sub("*", pattern.lstrip("/"))  # `**` is `*` to Go
            try:
                found = sorted(base.glob(name)) if "*" in name else [base / name]
            except (OSError, ValueError) as failure:
                raise OcifsError(
                    f"cannot use {printable_path(str(path))}: it imports {shown(pattern)!r}: {shown(str(failure))}"
                ) from None
            yield from found


def _merge(values: dict[str, Any], imported: Mapping[str, Any]) -> None:
    """Merge an imported file: sections of plugins are replaced, lists become longer, and other values replaced."""
    for key, value in imported.items():
        before = values.get(key)
        if key == "imports":
            continue
        if isinstance(before, dict) and isinstance(value, dict):
            values[key] = {**before, **value}
        elif isinstance(before, list) and isinstance(value, list):
            values[key] = [*before, *value]
        else:
            values[key] = value


def parse_version(text: str) -> Version | None:
    """Return the version in the output of `containerd --version`, or of its API; None: there is none."""
    for word in text.split():
        if match := _VERSION.match(word):
            return int(match[1]), int(match[2])
    return None


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}
