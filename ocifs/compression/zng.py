"""zlib-ng's inflate() by ctypes, which can stop between deflate blocks; the package `zlib_ng` does not expose it.

Source: zlib-ng.h and inflate.c of zlib-ng 2 (its binary interface); zran.c of zlib shows the use of Z_BLOCK.
ctypes releases the interpreter lock during a call. Only this module checks the memory that C writes to.
"""

import ctypes
import functools

from zlib_ng import zlib_ng

_OK, _STREAM_END, _MEM_ERROR, _BUF_ERROR = 0, 1, -4, -5
_NO_FLUSH, _BLOCK = 0, 5
_GZIP_WBITS = 31
_WINDOW = 32 << 10

# Fields of `data_type`, once inflate() returns:
_UNUSED_BITS = 7
"""Mask: the number of unused bits of the last input byte."""
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
    """The stream is not gzip, or is damaged."""


@functools.cache
def _library() -> ctypes.CDLL:
    """Return the module's shared library, which contains zlib-ng or is linked with it. Raises OSError."""
    library = ctypes.CDLL(zlib_ng.__file__)
    library.zlibng_version.restype = ctypes.c_char_p
    return library


def can_stop_between_blocks(library: ctypes.CDLL | None = None) -> bool:
    """Whether zlib-ng exports its functions, with the binary interface that this module knows."""
    try:
        with Inflate(library):
            return True
    except (OSError, AttributeError, InflateError):
        return False


class Inflate:
    """Inflates gzip members, one after the other."""

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        """`library`: the shared library with zlib-ng, by default that of `zlib_ng`. Raises OSError, AttributeError."""
        library = library or _library()
        self._inflate = library.zng_inflate
        self._reset = library.zng_inflateReset
        self._end = library.zng_inflateEnd
        self._dictionary = library.zng_inflateGetDictionary
        self._stream = _Stream()
        self._reference = ctypes.byref(self._stream)
        self._input = b""
        self.ended = False
        """Whether the member has ended, with the right CRC and size."""
        # Fails if the library has another version or size of the structure.
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
        """Return up to `size` bytes from the start of the unused input."""
        used = len(self._input) - self._stream.avail_in
        return self._input[used : used + size]

    @property
    def left(self) -> int:
        """Bytes of unused input."""
        left: int = self._stream.avail_in
        return left

    @property
    def bits(self) -> int | None:
        """Between two blocks: how many bits of the last used byte belong to the next block. Else None."""
        state: int = self._stream.data_type
        return state & _UNUSED_BITS if state & _BETWEEN_BLOCKS and not state & _LAST_BLOCK else None

    def skip(self, size: int) -> None:
        """Skip `size` bytes of the unused input. Raises ValueError if it has fewer."""
        if not 0 <= size <= self._stream.avail_in:
            raise ValueError(f"cannot skip {size} of {self._stream.avail_in} bytes")
        self._stream.next_in = (self._stream.next_in or 0) + size
        self._stream.avail_in -= size

    def feed(self, data: bytes) -> None:
        """Set the next input; the previous one must be used up."""
        self._input = data  # C reads it, so it must stay alive
        self._stream.next_in = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p)
        self._stream.avail_in = len(data)

    def into(self, buffer: bytearray | memoryview, begin: int, end: int, *, stop_between_blocks: bool) -> int:
        """Inflate into `buffer` from `begin` to `end`, or as far as the input reaches; return the number of bytes.

        Raises:
            InflateError: The stream is damaged.
            MemoryError: There is none for its state.
        """
        if not 0 <= begin < end <= len(buffer):
            raise ValueError(f"{begin} to {end} is not inside {len(buffer)} bytes")
        stream = self._stream
        first = ctypes.c_ubyte.from_buffer(buffer, begin)  # keeps the buffer from moving
        stream.next_out = ctypes.addressof(first)
        stream.avail_out = end - begin
        status = self._inflate(self._reference, _BLOCK if stop_between_blocks else _NO_FLUSH)
        self.ended = status == _STREAM_END
        if status not in (_STREAM_END, _BUF_ERROR):  # Z_BUF_ERROR only means that input or room is used up
            self._check(status)
        return end - begin - int(stream.avail_out)

    def window(self) -> bytes:
        """Return the last bytes of this member, at most 32 KiB: the next block may refer to them."""
        buffer = ctypes.create_string_buffer(_WINDOW)
        size = ctypes.c_uint32()
        self._check(self._dictionary(self._reference, buffer, ctypes.byref(size)))
        return buffer.raw[: size.value]

    def begin_member(self) -> None:
        """Start another member, which begins with the unused input."""
        self._check(self._reset(self._reference))
        self.ended = False

    def _check(self, status: int) -> None:
        if status == _MEM_ERROR:
            raise MemoryError
        if status != _OK:
            message = self._stream.msg
            raise InflateError(message.decode(errors="replace") if message else f"zlib-ng returns status {status}")
