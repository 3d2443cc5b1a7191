"""Whether an ordinary user can limit a container with cgroups: only systemd hands a part of them to users.

runc and crun then ask the user's systemd for a cgroup (`--systemd-cgroup`), over its bus.
"""

from collections.abc import Mapping
from pathlib import Path

from ocifs.errors import UnsupportedError

_ROOT = Path("/sys/fs/cgroup")


def check_delegated(controllers: Mapping[str, str], uid: int, bus: Path, root: Path = _ROOT) -> None:
    """Check that systemd delegates each controller to the user.

    `controllers` maps each to the option that needs it; `bus` is the socket of the user's systemd.

    Raises:
        UnsupportedError: It does not; the message names the option.
    """
    options = " and ".join(controllers.values())
    if not (root / "cgroup.controllers").exists():
        raise UnsupportedError(
            f"{options} in a rootless container: this needs cgroup version 2, and this machine mounts version 1: "
            "run it as root, or boot with systemd.unified_cgroup_hierarchy=1"
        )
    if not bus.exists():
        raise UnsupportedError(
            f"{options} in a rootless container: this needs a systemd user session, and {bus} does not exist: "
            "run it as root, or log in again (loginctl enable-linger)"
        )
    service = root / f"user.slice/user-{uid}.slice/user@{uid}.service"
    try:
        delegated = (service / "cgroup.controllers").read_text().split()
    except OSError:
        delegated = []
    for controller, option in controllers.items():
        if controller not in delegated:
            raise UnsupportedError(
                f"{option} in a rootless container: systemd does not delegate the controller '{controller}' to you: "
                f"run it as root, or set Delegate={controller} for user@.service"
            )
