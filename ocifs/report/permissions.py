"""Parse modes like chmod(1) and find(1): octal digits, or symbols such as `u+s,go=rx`."""

import re

_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}
_CLAUSE = re.compile(r"([ugoa]*)([-+=])([rwxst]*)")


def parse_permissions(text: str) -> int:
    """Return the permission bits, from 0 to 0o7777; symbols start from none.

    Raises:
        ValueError: The text is not a mode.
    """
    if re.fullmatch("[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        return int(text, 8)
    mode = 0
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise ValueError("write a mode, as 4000 or u+s")
        who = "ugo" if match[1] in {"", "a"} else match[1].replace("a", "ugo")
        bits = _bits(who, match[3])
        if match[2] == "+":
            mode |= bits
        elif match[2] == "-":
            mode &= ~bits
        else:
            mode = mode & ~_bits(who, "rwxst") | bits
    return mode


def _bits(who: str, what: str) -> int:
    bits = 0
    for letter in what:
        if letter == "t":
            bits |= 0o1000
        elif letter == "s":
            bits |= (0o4000 if "u" in who else 0) | (0o2000 if "g" in who else 0)
        else:
            for each in who:
                bits |= _BITS[letter] << _SHIFTS[each]
    return bits
