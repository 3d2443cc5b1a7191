"""The checks of `ocifs verify`, as lines and as JSON."""

from collections.abc import Sequence

import msgspec

from ocifs.image.verification import Check
from ocifs.report.text import local_time

_NAMES = {
    "toc": "TOC of layer",
    "tree": "tree image",
    "changes": "changes image",
    "pack": "hot pack",
    "published-pack": "published pack",
}


def check_line(check: Check) -> str:
    """Return a line."""
    state = "ok  " if check.problem is None else "FAIL"
    name = _NAMES.get(check.what, check.what) + ("" if check.layer is None else f" {check.layer}")
    result = check.verified if check.problem is None else check.problem
    indexed = "" if check.indexed is None else f"; it was indexed {local_time(check.indexed)}"
    return f"{state}  {name:15}  {check.digest[:19]:19}  {result}{indexed}"


def summary_line(checks: Sequence[Check], name: str) -> str:
    """Return the summary of all checks."""
    failed = sum(check.problem is not None for check in checks)
    when = local_time(max(check.at for check in checks))
    if not failed:
        return f"{name}: all {len(checks)} checks passed, {when}"
    return f"{name}: {failed} of {len(checks)} checks failed, {when}; parts that depend on failed ones were not checked"


def to_json(check: Check) -> str:
    """Return a JSON object on one line."""
    fields: dict[str, object] = {
        "what": check.what,
        "digest": str(check.digest),
        "layer": check.layer,
        "ok": check.problem is None,
    }
    fields |= {"at": check.at} | ({} if check.indexed is None else {"indexed": check.indexed})
    result = {"verified": check.verified} if check.problem is None else {"problem": check.problem}
    return msgspec.json.encode(fields | result).decode()
