"""What tests of the whole command share: the command itself, and what must be there for it to mount.

The fixtures that run the command check afterwards that no mount, process or record is left.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from ocifs.erofs.writer import compile_tree
from ocifs.mount import syscalls
from ocifs.sources.registry import configuration
from ocifs.store import Store
from tests.cli.command import Ocifs
from tests.erofs.trees import directory
from tests.registry import Registry, running

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # grpc's handlers of fork(2) would hang processes that tests start
settings.register_profile("any machine", deadline=None)  # a busy one is no failure
settings.load_profile("any machine")

# A shell has what it begins in the background ignore SIGINT and SIGQUIT, and so would the commands tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
# So does nohup(1) with SIGHUP.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_NOBODY = 65534
_CAP_SYS_ADMIN = 1 << 21
_REPOSITORY = Path(__file__).parent.parent

_USER_CACHE = Path(os.environ.get("XDG_USER_CACHE_HOME") or Path.home() / ".cache")
"""The user's cache, which tests do not see once they run."""

_COMPARED_WITH = ("rsync", "skopeo", "zstd", "pigz", "bgzip")


@contextmanager
def leaving_nothing(ocifs: Ocifs) -> Iterator[Ocifs]:
    """Fail if anything is left, and clear it away, so that it fails one test only."""
    for made in (ocifs.runtime, ocifs.temporary):
        made.mkdir(mode=0o700)
        os.chown(made, ocifs.home.stat().st_uid, -1)
    try:
        yield ocifs
    finally:
        left = ocifs.leftovers()
        for place in ocifs.mounts():
            subprocess.run(["umount", "-l", place], check=False)
        for pid in ocifs.processes():
            os.kill(pid, signal.SIGKILL)
    assert left == []


_REGISTRY_VARIABLES = ("CONTAINERS_REGISTRIES_CONF", "REGISTRY_AUTH_FILE")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_USER_DIRECTORIES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG")


@pytest.fixture(autouse=True, scope="session")
def _isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide this user's caches, credentials, registry configuration and proxies from tests and the commands they run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (*_REGISTRY_VARIABLES, *_PROXY_VARIABLES, *map(str.upper, _PROXY_VARIABLES)):
            patch.delenv(name, raising=False)
        for name in _USER_DIRECTORIES:
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        patch.setattr(configuration, "SYSTEM", tmp_path_factory.mktemp("etc"))
        yield


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home directory in which to configure registries."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    for name in _USER_DIRECTORIES:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "runtime"))
    return home


@pytest.fixture
def small_disk(tmp_path: Path, root: None) -> Iterator[Path]:
    """A directory that holds 64 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "ocifs-test", directory], check=True)
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An empty registry on a loopback address."""
    with running() as registry:
        yield registry


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty cache on disk."""
    return Store(tmp_path / "cache")


@pytest.fixture
def ocifs(tmp_path: Path) -> Iterator[Ocifs]:
    home = tmp_path / "home"
    home.mkdir()
    with leaving_nothing(Ocifs(home)) as command:
        yield command


@pytest.fixture(scope="session")
def session_ocifs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ocifs]:
    """The command for what many tests look at."""
    with leaving_nothing(Ocifs(tmp_path_factory.mktemp("session"))) as command:
        yield command


@pytest.fixture(scope="session")
def fuse() -> None:
    """Skip where nothing can be mounted."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is missing or closed to this user")
    if shutil.which("fusermount3") is None:
        pytest.skip("fusermount3 is missing")


@pytest.fixture
def runc() -> None:
    """Skip without runc."""
    if shutil.which("runc") is None:
        pytest.skip("runc is missing")


@pytest.fixture(scope="session")
def debian(fuse: None) -> Path:
    """The layout that scripts/make-debian-image makes; skip if it or a tool is missing."""
    layout = Path(os.environ.get("OCIFS_DEBIAN_IMAGE") or _USER_CACHE / "ocifs-tests/debian")
    if not (layout / "complete").exists():
        pytest.skip(f"{layout} is missing: make it with scripts/make-debian-image (root, debootstrap, umoci)")
    if missing := [tool for tool in _COMPARED_WITH if shutil.which(tool) is None]:
        pytest.skip(f"missing: {', '.join(missing)}")
    return layout


@pytest.fixture(scope="session")
def erofs(fuse: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where the kernel, asked without the engine, mounts no EROFS from a file for this user."""
    tree_image = tmp_path_factory.mktemp("erofs") / "image"
    tree_image.write_bytes(compile_tree(directory(), [], lambda layer, size, offset: b""))
    try:
        os.close(syscalls.new_mount("erofs", {"source": str(tree_image)}, syscalls.MOUNT_ATTR_RDONLY))
    except OSError as error:
        pytest.skip(f"no EROFS from a file here: {error.strerror}")


@pytest.fixture(params=["fuse", "erofs"], scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    """Run the test with both engines."""
    request.getfixturevalue(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def root() -> None:
    """Skip unless these tests run as root who may mount."""
    capabilities = re.search(r"^CapEff:\s+(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    if os.geteuid() != 0 or not (capabilities and int(capabilities[1], 16) & _CAP_SYS_ADMIN):
        pytest.skip("needs root with CAP_SYS_ADMIN")


@pytest.fixture
def user() -> Iterator[Ocifs]:
    """The command as an ordinary user runs it: as root, by becoming one."""
    with tempfile.TemporaryDirectory(prefix="ocifs-user-") as name:
        home = Path(name).resolve()
        if os.geteuid() != 0:
            command = Ocifs(home, become=("env",))
        else:
            os.chown(home, _NOBODY, _NOBODY)
            home.chmod(0o755)
            command = _as_nobody(home)
        with leaving_nothing(command):
            yield command


def _as_nobody(home: Path) -> Ocifs:
    """Find an interpreter that an ordinary user may run, and can import ocifs with."""
    become = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "env")
    packages = {"PYTHONPATH": os.pathsep.join([str(_REPOSITORY), sysconfig.get_path("platlib")])}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for interpreter in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        command = Ocifs(home, interpreter, become, packages)
        try:
            if command.run("--version").code == 0:
                return command
        except FileNotFoundError:
            continue
    pytest.skip("no interpreter with ocifs is open to an ordinary user")
