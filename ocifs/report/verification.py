"""What was proven of an image, as lines and as JSON."""

from collections.abc import Sequence

import msgspec

from ocifs.image.verification import Check

_NAMES = {"tree": "tree image", "changes": "changes image"}


def check_line(check: Check) -> str:
    """Return a line."""
    state = "ok  " if check.problem is None else "FAIL"
    name = _NAMES.get(check.what, check.what) + ("" if check.layer is None else f" {check.layer}")
    return f"{state}  {name:15}  {check.digest[:19]:19}  {check.proven if check.problem is None else check.problem}"


def summary_line(checks: Sequence[Check], name: str) -> str:
    """Return what all of them say together."""
    failed = sum(check.problem is not None for check in checks)
    if not failed:
        return f"{name}: all {len(checks)} checks passed"
    return f"{name}: {failed} of {len(checks)} checks failed; parts that need what failed were not looked at"


def to_json(check: Check) -> str:
    """Return a JSON object on one line."""
    fields = {"what": check.what, "digest": str(check.digest), "layer": check.layer, "ok": check.problem is None}
    told = {"proven": check.proven} if check.problem is None else {"problem": check.problem}
    return msgspec.json.encode(fields | told).decode()
