"""How long ocifs waits for a registry."""

import msgspec


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in seconds."""

    connect: float = 10.0
    answer: float = 30.0
    """From the request to the end of the response's headers, and between two pieces of its body."""
    rate: float = 10.0
    """Period over which a server must send at least 1024 bytes a second; a slower one counts as stuck."""
    operation: float = 30.0
    """One operation with its retries."""
    first_operation: float = 3.0
    """The same, until the host has answered once: its name is probably wrong."""
    pause: float = 0.25
    """Before the second try, roughly; it doubles with each further one."""


DEFAULT_TIMEOUTS = Timeouts()
