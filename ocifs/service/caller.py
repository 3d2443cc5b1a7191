"""The state that a served command takes over from its caller, as a message between the two.

Both sides use this module. The caller has imported nothing else of ocifs yet, so this module imports next to nothing.
"""

import os
import resource
import sys

from ocifs import version

TYPE_CHECKING = False
if TYPE_CHECKING:  # without an import of typing
    from collections.abc import Iterable

COMMANDS = "commands.sock"
"""Name of the socket in the runtime directory at which the service accepts whole commands."""
FORMAT = b"1"
"""Version of the messages."""
MESSAGE_MAX = 16 << 20
"""Bytes of a message: as many as `ocifs.mount.framing` accepts."""
STARTED, UNFIT, PRINT, RUN, DONE = b"started", b"unfit", b"print", b"run", b"done"
"""Kinds of messages to the caller: the command runs, in the process with this PID; the caller must run it itself, and
nothing has changed; the caller is to print something; it is to run a container; the command has ended."""
STATUS = b"\0"
"""The byte before the exit status of a container in the caller's messages; other bytes are signals."""

_LENGTH = 4
_NAMESPACES = ("pid", "user", "net", "ipc", "uts")
"""Namespaces that must be the same; the command enters the caller's mount namespace."""
_LIMITS = range(16)
"""Linux numbers its resource limits (getrlimit(2))."""
_HARMLESS = {b"PYTHONDONTWRITEBYTECODE"}


class Caller:
    """The state of a process that its command depends on."""

    def __init__(  # noqa: PLR0913 - a struct, without the import of one
        self,
        arguments: list[bytes],
        environment: dict[bytes, bytes],
        umask: int,
        limits: list[tuple[int, int]],
        streams: list[str],
        root: tuple[int, ...],
        *,
        is_terminal: bool,
    ) -> None:
        self.arguments = arguments
        self.environment = environment
        self.umask = umask
        self.limits = limits
        """Soft and hard limit of each resource, in the order of Linux."""
        self.streams = streams
        """Encoding and error handler of stdout, then of stderr."""
        self.root = root
        """As `root` returns it, in the mount namespace of the caller."""
        self.is_terminal = is_terminal
        """Whether stdin is a terminal."""

    @classmethod
    def this(cls, arguments: list[str]) -> "Caller":
        """Describe this process. Raises OSError, UnicodeError."""
        umask = os.umask(0)
        os.umask(umask)
        return cls(
            arguments=[os.fsencode(word) for word in arguments],
            environment=dict(os.environb),
            umask=umask,
            limits=[resource.getrlimit(each) for each in _LIMITS],
            streams=[word or "" for out in (sys.stdout, sys.stderr) for word in (out.encoding, out.errors)],
            root=root(),
            is_terminal=os.isatty(0),
        )

    def encode(self) -> bytes:
        """Return the message."""
        return packed(
            [
                packed([FORMAT, *interpreter(self.environment)]),
                _packed_numbers(place()),
                _packed_numbers([*self.root, self.umask, self.is_terminal]),
                _packed_numbers(each for limit in self.limits for each in limit),
                packed([each.encode() for each in self.streams]),
                packed(self.arguments),
                packed([name + b"=" + value for name, value in self.environment.items()]),
            ]
        )

    @classmethod
    def decode(cls, message: bytes, installed: list[bytes]) -> "Caller":
        """Decode the message of a caller with the interpreter `installed`. Raises ValueError with what differs."""
        first, *others = unpacked(message)
        if unpacked(first) != [FORMAT, *installed]:
            raise ValueError("the command belongs to another installation of ocifs or Python than the service")
        where, facts, limits, streams, arguments, environment = map(unpacked, others)
        if [*map(int, where)] != place():
            raise ValueError("the command has other users or namespaces than the service")
        *above, umask, is_terminal = map(int, facts)
        numbers = [*map(int, limits)]
        return cls(
            arguments=arguments,
            environment=dict(each.split(b"=", 1) for each in environment),
            umask=umask,
            limits=[*zip(numbers[::2], numbers[1::2], strict=True)],
            streams=[each.decode() for each in streams],
            root=tuple(above),
            is_terminal=bool(is_terminal),
        )


def interpreter(environment: dict[bytes, bytes]) -> list[bytes]:
    """Return what identifies an installation of Python with ocifs: versions, files, paths, flags, settings."""
    flags = sys.flags
    return [
        os.fsencode(version.__file__),
        str_bytes(os.stat(version.__file__).st_mtime_ns),
        version.__version__.encode(),
        sys.version.encode(),
        str_bytes([flags.optimize, flags.dev_mode, flags.utf8_mode, flags.bytes_warning, sys.warnoptions]),
        sys.getfilesystemencoding().encode(),
        *(os.fsencode(path) for path in sys.path[0 if flags.safe_path else 1 :]),
        *(name + b"=" + value for name, value in sorted(environment.items()) if _sets_python(name)),
    ]


def place() -> list[int]:
    """Return IDs and namespaces of this process. Raises OSError."""
    namespaces = [os.stat(f"/proc/self/ns/{name}").st_ino for name in _NAMESPACES]
    return [*namespaces, *os.getresuid(), *os.getresgid()]


def root() -> tuple[int, int, int]:
    """Return device and inode of the root directory, and the ID of its mount, which bind mounts differ in.

    Raises OSError, and ValueError if /proc is something else.
    """
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    finally:
        os.close(fd)
    return status.st_dev, status.st_ino, int(fields.get(b"mnt_id", b"?"))


def packed(fields: list[bytes]) -> bytes:
    """Join fields, each with its length."""
    return b"".join(len(each).to_bytes(_LENGTH, "little") + each for each in fields)


def unpacked(message: bytes) -> list[bytes]:
    """Split a message into its fields. Raises ValueError."""
    fields, at = [], 0
    while at < len(message):
        start = at + _LENGTH
        at = start + int.from_bytes(message[at:start], "little")
        if at > len(message):
            raise ValueError("malformed message")
        fields.append(message[start:at])
    return fields


def str_bytes(value: object) -> bytes:
    """Return the text of a value."""
    return str(value).encode()


def _packed_numbers(numbers: "Iterable[int]") -> bytes:
    return packed([str_bytes(int(each)) for each in numbers])


def _sets_python(name: bytes) -> bool:
    return name.startswith(b"PYTHON") and name not in _HARMLESS
