"""Add and drop capabilities, as `podman run --cap-add` and `--cap-drop` do (capabilities(7))."""

from collections.abc import Collection

from ocifs.process import status_of

ALL = "ALL"
_PREFIX = "CAP_"
_NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""By number, from 0."""


def parse_capability(text: str) -> str:
    """Parse a name in any case, with or without `CAP_`, or ALL. Raises ValueError."""
    name = text.upper().removeprefix(_PREFIX)
    if name == ALL and not text.upper().startswith(_PREFIX):
        return ALL
    if name not in _NAMES:
        raise ValueError(f"{text!r} is not a capability: capabilities(7) lists them; ALL is all of them")
    return _PREFIX + name


def check_changes(add: Collection[str], drop: Collection[str]) -> None:
    """Raise ValueError if both name the same capability."""
    for each in add:
        if each in drop:
            raise ValueError(f"{each} is both added and dropped: leave one out")


def changed(default: Collection[str], add: Collection[str], drop: Collection[str], most: int) -> tuple[str, ...]:
    """Return the resulting capabilities, by number; ALL adds those whose bits are set in `most`."""
    names = [_PREFIX + name for name in _NAMES]
    everything = {name for number, name in enumerate(names) if most >> number & 1}
    kept = everything if ALL in add else set() if ALL in drop else set(default)
    if ALL not in drop:
        kept -= set(drop)
    kept |= set(add) - {ALL}
    return tuple(name for name in names if name in kept)


def bounding_set() -> int:
    """Return the capabilities that this process may ever have (proc_pid_status(5)), as a mask."""
    return int(status_of("self")["CapBnd"], 16)
