"""Limits in a rootless container need cgroups that systemd delegates to the user; everything else is said to be so."""

from pathlib import Path

import pytest

from ocifs.bundle.cgroups import check_delegated
from ocifs.errors import UnsupportedError

_NEEDED = {"memory": "--memory", "pids": "--pids-limit"}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    root, bus = tmp_path / "cgroup", tmp_path / "bus"
    service = root / "user.slice/user-7.slice/user@7.service"
    service.mkdir(parents=True)

    def check() -> None:
        check_delegated(_NEEDED, 7, bus, root)

    with pytest.raises(UnsupportedError, match=r"^--memory and --pids-limit in a rootless container.*version 1"):
        check()
    (root / "cgroup.controllers").write_text("cpu memory pids\n")
    with pytest.raises(UnsupportedError, match=f"systemd user session, and {bus} does not exist"):
        check()
    bus.touch()
    with pytest.raises(UnsupportedError, match=r"^--memory .* does not delegate the controller 'memory'"):
        check()
    (service / "cgroup.controllers").write_text("memory\n")
    with pytest.raises(UnsupportedError, match=r"^--pids-limit .* does not delegate the controller 'pids'"):
        check()
    (service / "cgroup.controllers").write_text("memory pids\n")
    check()
