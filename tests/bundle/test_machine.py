"""Which images this machine can run, with the handlers of binfmt_misc as Debian's qemu-user-static registers them."""

from pathlib import Path

import pytest

from ocifs.bundle.machine import mismatch
from ocifs.spec.platform import Platform

_AARCH64 = """\
enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
_S390X = """\
enabled
interpreter /usr/libexec/qemu-binfmt/s390x-binfmt-P
flags: POCF
offset 0
magic 7f454c4602020100000000000000000000020016
mask ffffffffffffff00fffffffffffffffffffeffff
"""


@pytest.mark.parametrize(
    ("image", "machine"),
    [
        ("linux/amd64", "x86_64"),
        ("linux/amd64/v3", "x86_64"),
        ("linux/x86_64", "x86_64"),
        ("linux/386", "x86_64"),
        ("linux/arm64/v8", "aarch64"),
        ("linux/arm/v7", "aarch64"),
        ("linux/arm/v6", "armv7l"),
        ("linux/riscv64", "riscv64"),
        ("linux", "x86_64"),
    ],
)
def test_runs_here(image: str, machine: str, tmp_path: Path) -> None:
    assert mismatch(Platform(*image.split("/")), machine, tmp_path) is None


@pytest.mark.parametrize(
    ("image", "machine", "ours"),
    [
        ("linux/arm64", "x86_64", "linux/amd64"),
        ("linux/amd64", "aarch64", "linux/arm64"),
        ("linux/arm/v7", "armv6l", "linux/arm/v6"),
        ("linux/arm64", "armv7l", "linux/arm/v7"),
        ("linux/nosuch", "x86_64", "linux/amd64"),
    ],
)
def test_does_not_run_here(image: str, machine: str, ours: str, tmp_path: Path) -> None:
    warning = mismatch(Platform(*image.split("/")), machine, tmp_path / "missing")
    assert warning is not None
    assert warning.startswith(f"the image is for {image}, this machine is {ours}: its programs will not start")


def binfmt_misc(where: Path, status: str = "enabled", **handlers: str) -> Path:
    (where / "status").write_text(f"{status}\n")
    (where / "register").touch()
    for name, text in handlers.items():
        (where / name).write_text(text)
    return where


@pytest.mark.parametrize(
    ("handler", "emulated"),
    [
        (_AARCH64, True),
        (_AARCH64 + "\n", True),
        (_AARCH64.replace("enabled", "disabled"), False),
        (_AARCH64.replace("POCF", "POC"), False),
        (_S390X, False),
        ("enabled\ninterpreter /usr/bin/x\nflags: F\nextension .exe\n", False),
        ("enabled\ninterpreter /usr/bin/x\nflags: F\noffset 0\nmagic 4d5a\n", False),
        ("enabled\ninterpreter /usr/bin/x\nflags: F\noffset 18\nmagic b700\n", True),
        ("enabled\ninterpreter /usr/bin/x\nflags: F\noffset 4000\nmagic b700\n", False),
        ("enabled\nmagic 7", False),
        ("", False),
    ],
)
def test_an_interpreter_that_reaches_containers(handler: str, emulated: bool, tmp_path: Path) -> None:
    handlers = binfmt_misc(tmp_path, handler=handler)
    assert (mismatch(Platform("linux", "arm64"), "x86_64", handlers) is None) == emulated


def test_each_order_of_bytes(tmp_path: Path) -> None:
    handlers = binfmt_misc(tmp_path, arm=_AARCH64, s390x=_S390X)
    assert mismatch(Platform("linux", "s390x"), "x86_64", handlers) is None
    assert mismatch(Platform("linux", "ppc64le"), "x86_64", handlers) is not None
    binfmt_misc(tmp_path, status="disabled")
    assert mismatch(Platform("linux", "s390x"), "x86_64", handlers) is not None


def test_a_platform_of_control_characters_is_printable(tmp_path: Path) -> None:
    warning = mismatch(Platform("linux", "\x1b[31m"), "x86_64", tmp_path)
    assert warning is not None
    assert warning.isprintable()
