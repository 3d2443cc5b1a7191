"""Check whether this machine can run an image's programs, natively or with an interpreter of binfmt_misc.

The platform in a config may be wrong, and an image may contain only scripts, so a mismatch is just a warning.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ocifs.spec.document import shown
from ocifs.spec.platform import Platform

_BINFMT_MISC = Path("/proc/sys/fs/binfmt_misc")
_BITS_32, _BITS_64 = 1, 2
_LITTLE, _BIG = 1, 2
_ELF = {
    "386": (_BITS_32, _LITTLE, 3),
    "amd64": (_BITS_64, _LITTLE, 62),
    "arm": (_BITS_32, _LITTLE, 40),
    "arm64": (_BITS_64, _LITTLE, 183),
    "loong64": (_BITS_64, _LITTLE, 258),
    "mips": (_BITS_32, _BIG, 8),
    "mips64": (_BITS_64, _BIG, 8),
    "mips64le": (_BITS_64, _LITTLE, 8),
    "mipsle": (_BITS_32, _LITTLE, 8),
    "ppc64": (_BITS_64, _BIG, 21),
    "ppc64le": (_BITS_64, _LITTLE, 21),
    "riscv64": (_BITS_64, _LITTLE, 243),
    "s390x": (_BITS_64, _BIG, 22),
}
"""Class, data encoding and machine in the ELF header of a program (elf(5))."""
_RUNS_TOO = {("amd64", "386"), ("arm64", "arm")}
"""(machine, image) pairs that most kernels run without an emulator."""


def mismatch(image: Platform, machine: str, binfmt_misc: Path = _BINFMT_MISC) -> str | None:
    """Return a warning if a Linux machine, named as by `uname -m`, cannot run the image's programs."""
    ours, theirs = Platform.of_machine(machine), image.normalized()
    both = ours.normalized().architecture, theirs.architecture
    if not theirs.architecture or both in _RUNS_TOO:
        return None
    if both[0] == both[1] and (both[0] != "arm" or theirs in ours.accepted()):
        return None
    if _is_emulated(theirs.architecture, binfmt_misc):
        return None
    return (
        f"the image is for {shown(str(image))}, this machine is {ours}: its programs will not start; choose another "
        "with --platform, or install an emulator (Debian package qemu-user-static)"
    )


def can_execute(head: bytes, machine: str, binfmt_misc: Path = _BINFMT_MISC) -> bool:
    """Whether a Linux machine, named as by `uname -m`, can execute a file that begins with `head`."""
    if head.startswith(b"#!"):
        return True
    ours = Platform.of_machine(machine).normalized().architecture
    if head.startswith(b"\x7fELF"):
        known = [_ELF[each] for each in (ours, *(guest for host, guest in _RUNS_TOO if host == ours)) if each in _ELF]
        order: Literal["little", "big"] = "big" if head[5:6] == bytes([_BIG]) else "little"
        if not known or int.from_bytes(head[18:20], order) in {number for _, _, number in known}:
            return True
    return any(handler.recognises(head) for handler in _handlers(binfmt_misc))


class _Handler(NamedTuple):
    """A program format registered with binfmt_misc (Documentation/admin-guide/binfmt-misc.rst)."""

    flags: str
    offset: int
    magic: bytes
    mask: bytes

    def recognises(self, head: bytes) -> bool:
        """Whether a file that begins with `head` has this format."""
        part = head[self.offset : self.offset + len(self.magic)].ljust(len(self.magic), b"\0")
        return all((a ^ b) & m == 0 for a, b, m in zip(part, self.magic, self.mask, strict=True))


def _is_emulated(architecture: str, binfmt_misc: Path) -> bool:
    """Whether containers can use a registered interpreter: with flag F the kernel opens it at registration."""
    if architecture not in _ELF:
        return False
    head = _elf_head(*_ELF[architecture])
    return any("F" in handler.flags and handler.recognises(head) for handler in _handlers(binfmt_misc))


def _elf_head(bits: int, order: int, machine: int) -> bytes:
    """Return the first bytes of an executable, up to and with the ELF header field `e_version`."""
    byteorder: Literal["little", "big"] = "little" if order == _LITTLE else "big"
    executable = 2
    head = b"\x7fELF" + bytes([bits, order, 1]) + bytes(9)
    return head + executable.to_bytes(2, byteorder) + machine.to_bytes(2, byteorder) + (1).to_bytes(4, byteorder)


def _handlers(binfmt_misc: Path) -> Iterator[_Handler]:
    """Yield the enabled handlers."""
    try:
        if (binfmt_misc / "status").read_text().strip() != "enabled":
            return
        files = [path for path in binfmt_misc.iterdir() if path.name not in {"status", "register"}]
    except OSError:
        return
    for path in files:
        try:
            enabled, *lines = path.read_text(errors="replace").splitlines()
            fields = dict(line.replace(":", "", 1).split(" ", 1) for line in lines if " " in line)
            magic = bytes.fromhex(fields["magic"])
            mask = bytes.fromhex(fields["mask"]) if "mask" in fields else b"\xff" * len(magic)
            handler = _Handler(fields.get("flags", ""), int(fields["offset"]), magic, mask)
        except (OSError, ValueError, KeyError):  # removed meanwhile, or registered for a file name extension
            continue
        if enabled == "enabled" and len(mask) == len(magic):
            yield handler
