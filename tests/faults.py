"""Let the kernel refuse system calls, as it does where a disk fails, or processes or threads run out (seccomp(2)).

A filter cannot be removed, but it applies only to one thread and to what this thread starts. `within` therefore runs
the code under test in a thread of its own, where `refuse` installs a filter at the right moment.
"""

import ctypes
import platform
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

_CALLS = {
    "x86_64": {
        "pread": (17,),
        "pwrite": (18,),
        "fsync": (74,),
        "fdatasync": (75,),
        "rename": (264, 316),  # renameat, renameat2
        "memfd_create": (319,),
        "start": (56, 57, 58, 435),  # clone, fork, vfork, clone3
        "fsopen": (430,),
        "fsmount": (432,),
    },
    "aarch64": {
        "pread": (67,),
        "pwrite": (68,),
        "fsync": (82,),
        "fdatasync": (83,),
        "rename": (38, 276),
        "memfd_create": (279,),
        "start": (220, 435),
        "fsopen": (430,),
        "fsmount": (432,),
    },
}
"""Numbers of system calls."""

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2  # linux/prctl.h, linux/seccomp.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _RETURN = 0x20, 0x06  # linux/bpf_common.h
EQUAL, AT_LEAST, HAS_BITS = 0x15, 0x35, 0x45
"""Conditions on an argument."""

T = TypeVar("T")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def within(code: Callable[[], T]) -> T:
    """Run `code` in a new thread; return its result or raise its error."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(code).result()


def refusing(call: str, code: int, run: Callable[[], T], *conditions: tuple[int, int, int]) -> T:
    """Run `run` in a thread whose system calls `call` fail as `refuse` says."""

    def refused() -> T:
        refuse(call, code, *conditions)
        return run()

    return within(refused)


def refuse(call: str, code: int, *conditions: tuple[int, int, int]) -> None:
    """From now on, let `call` fail with the error `code` in this thread.

    Args:
        call: A key of the table above.
        code: An errno.
        conditions: Each as (number of an argument, condition, value); the call fails if all are true.
    """
    calls = _CALLS.get(platform.machine())
    if calls is None:
        pytest.skip(f"no numbers of system calls for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    for number in calls[call]:
        tests = [(0, EQUAL, number), *((16 + 8 * argument, how, value) for argument, how, value in conditions)]
        program = b""
        for left, (place, how, value) in zip(reversed(range(len(tests))), tests, strict=True):
            program += _instruction(_LOAD, place) + _instruction(how, value, if_false=2 * left + 1)
        program += _instruction(_RETURN, _ERRNO | code) + _instruction(_RETURN, _ALLOW)
        filtering = _Program(len(program) // 8, program)
        if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filtering), 0, 0) != 0:
            pytest.skip("no seccomp filters here")


def _instruction(operation: int, value: int, *, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", operation, 0, if_false, value)
