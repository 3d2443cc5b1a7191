"""The packages in fresh minbase roots of Debian, without gcc: the wheel by pip, and the Debian package by apt.

They take minutes and the network: only `scripts/test --full` runs them.
"""

import os
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, tar

_REPOSITORY = Path(__file__).parents[2]
_PATIENCE = 3000
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

pytestmark = [
    pytest.mark.timeout(_PATIENCE),
    pytest.mark.skipif(not os.environ.get("OCIFS_TEST_FULL"), reason="installs Debian roots: scripts/test --full"),
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="debootstrap is missing"),
]

InRoot = Callable[[str], str]


@pytest.fixture(scope="module")
def release() -> str:
    lines = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return lines["VERSION_CODENAME"].strip('"')


@pytest.fixture(scope="module")
def minbase(tmp_path_factory: pytest.TempPathFactory, release: str, root: None) -> Path:
    """A minbase root with an image in /image and the packages in /dist."""
    place = tmp_path_factory.mktemp("minbase") / "root"
    targets = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", f"Codename: {release}"]
    mirror = subprocess.check_output(targets, text=True).split()[0]
    subprocess.run(["debootstrap", "--variant=minbase", release, place, mirror], check=True, capture_output=True)
    for name in ("resolv.conf", "hosts", "pip.conf"):
        if (source := Path("/etc") / name).exists():
            shutil.copyfile(source, place / "etc" / name)
    if _CERTIFICATES.exists():  # not in the place where the package ca-certificates would replace them
        shutil.copyfile(_CERTIFICATES, place / "ca.crt")
    (place / "etc/mtab").symlink_to("/proc/self/mounts")  # as Debian's installer does; fusermount3 -u needs it
    members = [directory(b"./", mode=0o755), file(b"greeting", b"hello\n", mode=0o644)]
    write_layout(place / "image", Image(layers=(Layer(tar(members)),)))
    for kind in ("wheel", "deb"):
        options = ["", str(place / "dist")] if kind == "deb" else [str(place / "dist")]
        subprocess.run([_REPOSITORY / "scripts/package", kind, *options], check=True, capture_output=True)
    place.parent.chmod(0o755)
    return place


def _running(root: Path) -> InRoot:
    """Return what runs a shell script in the root, with /proc and /dev/fuse, and yields its output."""
    variables = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    variables |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    variables |= {name: "/ca.crt" for name in ("PIP_CERT", "SSL_CERT_FILE") if (root / "ca.crt").exists()}
    variables |= {"PATH": "/usr/sbin:/usr/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    prepare = """
        set -eu
        mount -t proc proc "$0/proc"
        touch "$0/dev/fuse" && mount --bind /dev/fuse "$0/dev/fuse"
        exec chroot "$0" sh -euc "$1"
    """

    def run(script: str) -> str:
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", prepare, str(root)]
        ran = subprocess.run(
            [*command, textwrap.dedent(script)], env=variables, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return run


@pytest.fixture(scope="module")
def by_pip(minbase: Path, tmp_path_factory: pytest.TempPathFactory) -> InRoot:
    place = tmp_path_factory.mktemp("pip") / "root"
    subprocess.run(["cp", "-a", minbase, place], check=True)
    run = _running(place)
    run(
        """
        export DEBIAN_FRONTEND=noninteractive
        apt-get update && apt-get install -y --no-install-recommends python3-venv
        ! command -v gcc
        python3 -m venv /opt/ocifs
        /opt/ocifs/bin/pip install /dist/ocifs-*.whl
        """
    )
    return run


@pytest.fixture(scope="module")
def by_apt(minbase: Path, tmp_path_factory: pytest.TempPathFactory) -> InRoot:
    place = tmp_path_factory.mktemp("apt") / "root"
    subprocess.run(["cp", "-a", minbase, place], check=True)
    run = _running(place)
    run(
        """
        export DEBIAN_FRONTEND=noninteractive
        apt-get update && apt-get install -y /dist/ocifs_*.deb
        ! command -v gcc
        useradd --create-home user
        """
    )
    return run


def test_the_wheel_lists_and_mounts_as_root_without_a_compiler(by_pip: InRoot, erofs: None) -> None:
    shown = by_pip(
        """
        PATH=/opt/ocifs/bin:$PATH
        ocifs ls /image
        ocifs mount /image /mnt
        cat /mnt/greeting
        ocifs mounts | grep -o erofs
        ocifs umount /mnt
        """
    )
    assert shown == "greeting\nhello\nerofs\n"


def test_the_wheel_alone_names_the_extra_for_fuse(by_pip: InRoot) -> None:
    shown = by_pip("/opt/ocifs/bin/ocifs mount --engine fuse /image /mnt 2>&1 || echo $?")
    assert shown == "ocifs: the fuse engine needs pyfuse3, which is not installed: pip install 'ocifs[fuse]'\n5\n"


def test_the_debian_package_mounts_as_root(by_apt: InRoot, erofs: None) -> None:
    shown = by_apt("ocifs mount /image /mnt; cat /mnt/greeting; ocifs mounts | grep -o erofs; ocifs umount /mnt")
    assert shown == "hello\nerofs\n"


def test_with_the_debian_package_an_ordinary_user_mounts_through_fuse(by_apt: InRoot, fuse: None) -> None:
    shown = by_apt(
        """
        su user -c '
            mkdir -p ~/mnt && ocifs mount /image ~/mnt && cat ~/mnt/greeting &&
            ocifs mounts | grep -o fuse && ocifs umount ~/mnt'
        """
    )
    assert shown == "hello\nfuse\n"


def test_the_debian_package_has_man_pages_and_leaves_nothing(by_apt: InRoot) -> None:
    assert by_apt("zcat /usr/share/man/man1/ocifs-mount.1.gz | grep -c '^.TH'; dpkg --verify ocifs") == "1\n"
    assert by_apt("apt-get purge -y ocifs >/dev/null; ls -d /usr/lib/ocifs 2>&1 || true").startswith("ls: cannot")
