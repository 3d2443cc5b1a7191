"""zlib-ng's own inflate(), which the package `zlib_ng` carries but does not show: it can stop between deflate blocks.

Source: zlib-ng.h and inflate.c of zlib-ng 2, whose binary interface this is; zran.c of zlib shows the use of Z_BLOCK.
The interpreter lock is not held while it works. Memory that C writes to is checked here and nowhere else.
"""

import ctypes
import functools

from zlib_ng import zlib_ng

_OK, _STREAM_END, _BUF_ERROR = 0, 1, -5
_NO_FLUSH, _BLOCK = 0, 5
_GZIP_WBITS = 31
_WINDOW = 32 << 10

# Of `data_type`, when inflate() returns:
_UNUSED_BITS = 7
"""How many bits of the last byte taken are not used yet."""
_LAST_BLOCK = 64
_BETWEEN_BLOCKS = 128


class _Stream(ctypes.Structure):
    _fields_ = [
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint32),
        ("total_in", ctypes.c_size_t),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint32),
        ("total_out", ctypes.c_size_t),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_uint32),
        ("reserved", ctypes.c_ulong),
    ]


class InflateError(Exception):
    """The stream is no gzip, or damaged."""


@functools.cache
def _library() -> ctypes.CDLL:
    """Return the module's shared library: it has zlib-ng in it, or is linked with it. Raises OSError."""
    library = ctypes.CDLL(zlib_ng.__file__)
    library.zlibng_version.restype = ctypes.c_char_p
    return library


def can_stop_between_blocks() -> bool:
    """Whether zlib-ng shows its functions here, and is of the kind that is known."""
    try:
        with Inflate():
            return True
    except (OSError, AttributeError, InflateError):
        return False


class Inflate:
    """A gzip member that is being inflated; then the next."""

    def __init__(self) -> None:
        library = _library()
        self._inflate = library.zng_inflate
        self._reset = library.zng_inflateReset
        self._end = library.zng_inflateEnd
        self._dictionary = library.zng_inflateGetDictionary
        self._stream = _Stream()
        self._reference = ctypes.byref(self._stream)
        self._input = b""
        self.ended = False
        """Whether the member is at its end, and was what its CRC and size say."""
        # Where the version or the size of the structure is another, this says so.
        self._check(
            library.zng_inflateInit2_(
                self._reference, _GZIP_WBITS, library.zlibng_version(), ctypes.sizeof(self._stream)
            )
        )

    def __enter__(self) -> "Inflate":
        return self

    def __exit__(self, *exc: object) -> None:
        self._end(self._reference)

    def head(self, size: int) -> bytes:
        """Return the first `size` bytes of what is left of the input, or all of it if that is less."""
        place = len(self._input) - self._stream.avail_in
        return self._input[place : place + size]

    @property
    def left(self) -> int:
        """How many bytes are left of the input."""
        left: int = self._stream.avail_in
        return left

    @property
    def bits(self) -> int | None:
        """Between two blocks: how many bits of the byte before what is left belong to the next. Else None."""
        state: int = self._stream.data_type
        return state & _UNUSED_BITS if state & _BETWEEN_BLOCKS and not state & _LAST_BLOCK else None

    def skip(self, size: int) -> None:
        """Leave out `size` bytes of the input, of which as many must be left. Raises ValueError."""
        if not 0 <= size <= self._stream.avail_in:
            raise ValueError(f"{size} bytes to skip, {self._stream.avail_in} are left")
        self._stream.next_in = (self._stream.next_in or 0) + size
        self._stream.avail_in -= size

    def feed(self, data: bytes) -> None:
        """Give the next input, when nothing is left of what there was."""
        self._input = data  # C reads it as long as it is kept here
        self._stream.next_in = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p)
        self._stream.avail_in = len(data)

    def into(self, buffer: bytearray | memoryview, begin: int, end: int, *, stop_between_blocks: bool) -> int:
        """Inflate into `buffer` from `begin` to `end`, or as far as the input reaches; return how many bytes came.

        Raises:
            InflateError: The stream is damaged.
        """
        if not 0 <= begin < end <= len(buffer):
            raise ValueError(f"{begin} to {end} is not inside of {len(buffer)} bytes")
        stream = self._stream
        first = ctypes.c_ubyte.from_buffer(buffer, begin)  # which keeps it in its place
        stream.next_out = ctypes.addressof(first)
        stream.avail_out = end - begin
        status = self._inflate(self._reference, _BLOCK if stop_between_blocks else _NO_FLUSH)
        self.ended = status == _STREAM_END
        if status not in (_STREAM_END, _BUF_ERROR):  # which says no more than that there is no input or no room
            self._check(status)
        return end - begin - int(stream.avail_out)

    def window(self) -> bytes:
        """Return the bytes of this member that came last, at most 32 KiB: what the next block may refer to."""
        buffer = ctypes.create_string_buffer(_WINDOW)
        size = ctypes.c_uint32()
        self._check(self._dictionary(self._reference, buffer, ctypes.byref(size)))
        return buffer.raw[: size.value]

    def begin_member(self) -> None:
        """Continue with another member, which begins with what is left of the input."""
        self._check(self._reset(self._reference))
        self.ended = False

    def _check(self, status: int) -> None:
        if status != _OK:
            said = self._stream.msg
            raise InflateError(said.decode(errors="replace") if said else f"zlib-ng gives status {status}")
