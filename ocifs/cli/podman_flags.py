"""Options of `podman run` and `docker run` that ocifs lacks, with what to use in their place."""

from collections.abc import Callable
from typing import Any, TypeVar

from ocifs.cli.unsupported import all_unsupported

F = TypeVar("F", bound=Callable[..., Any])

_ENDS = "the container ends with `ocifs run`"
_FETCHED = "ocifs fetches what the container reads, from where IMAGE says"
_NO_HEALTH = f"{_ENDS}, so nothing checks its health: use `podman run`"
_FIXED = "ocifs sets it for the bundle: use `ocifs bundle`, and edit config.json"

_INSTEAD: dict[str, str] = {
    "-d --detach": f"{_ENDS}: `podman run -d` or `nerdctl run -d` runs it in the background",
    "-p --publish": "use --net host, or `podman run -p` or `nerdctl run -p`",
    "-P --publish-all": "use --net host, or `podman run -P`",
    "--expose": "use --net host, or `podman run --expose`",
    "--restart": "use `podman run --restart`, or a systemd unit with Restart=",
    "--link": "use `podman pod create` and `podman run --pod`, which connect containers",
    "--pod": "use `podman run --pod`",
    "--gpus": "use `nerdctl run --gpus`, or --device for each device node",
    "--dns": "mount a file instead: -v ./resolv.conf:/etc/resolv.conf",
    "--shm-size": "use --tmpfs /dev/shm:size=SIZE",
    "--volumes-from": "name the directories with --volume, or use `podman run --volumes-from`",
    "-c --cpu-shares": "use --cpus, or `podman run --cpu-shares`",
    "--cpuset-cpus": "use --cpus, or run ocifs with taskset(1)",
    "--security-opt": "use --privileged or --cap-add, or `podman run --security-opt`",
    "--userns": "see --rootless, or use `podman run --userns`",
    "--group-add": "name the groups in the image's /etc/group, or use `podman run --group-add`",
    "-l --label": "labels are of no use to a container that is removed: use --annotation, or `podman run --label`",
    "--label-file": "labels are of no use to a container that is removed: use --annotation, or `podman run`",
    "--secret": "mount a file with --volume, or use `podman run --secret`",
    "--stop-signal": "send the signal to `ocifs run`, which forwards it",
    "--stop-timeout": "use timeout(1): timeout -k 10 60 ocifs run …",
    "--timeout": "use timeout(1): timeout 60 ocifs run …",
    "--log-driver": "redirect the output of `ocifs run`, or use `podman run --log-driver`",
    "--log-opt": "redirect the output of `ocifs run`, or use `podman run --log-opt`",
    "--cidfile": "use --name, or `podman run --cidfile`",
    "-a --attach": "the standard streams are always attached; -i keeps standard input",
    "--sig-proxy": "`ocifs run` always forwards signals",
    "--detach-keys": "`ocifs run` does not detach: use `podman run`",
    "--replace": "first remove the container with that name: `ocifs umount` its bundle, which `ocifs mounts` lists",
    "--rmi": "ocifs keeps no images: `ocifs cache clear` empties the cache",
    "-q --quiet": "progress appears on a terminal only: redirect standard error, 2>/dev/null",
    "--arch": "use --platform linux/ARCH",
    "--os": "use --platform OS/ARCH",
    "--variant": "use --platform OS/ARCH/VARIANT",
    "--env-host": "name each variable: -e NAME copies it",
    "--env-merge": "write -e NAME=VALUE",
    "--http-proxy": "name each variable: -e http_proxy copies it",
    "--tz": "set the variable: -e TZ=Europe/Berlin",
    "--no-hosts": "mount a file instead: -v ./hosts:/etc/hosts",
    "--hosts-file": "mount a file instead: -v ./hosts:/etc/hosts",
    "--dns-option --dns-opt": "mount a file instead: -v ./resolv.conf:/etc/resolv.conf",
    "--dns-search": "mount a file instead: -v ./resolv.conf:/etc/resolv.conf",
    "--passwd": "mount a file instead: -v ./passwd:/etc/passwd",
    "--passwd-entry": "mount a file instead: -v ./passwd:/etc/passwd",
    "--group-entry": "mount a file instead: -v ./group:/etc/group",
    "--hostuser": "mount a file instead: -v ./passwd:/etc/passwd",
    "--init-path": "--init looks for catatonit and tini-static: put yours on the PATH",
    "--read-only-tmpfs": "add --tmpfs /tmp --tmpfs /run",
    "--image-volume": "see --rootfs, or mount over the volume with --tmpfs or --volume",
    "--chrootdirs": "mount the files that they need with --volume",
    "--cgroupns": "the container has a cgroup namespace of its own where only cgroup version 2 is mounted",
    "--cgroups": "run ocifs with `systemd-run --scope`, or use `podman run --cgroups`",
    "--cgroup-parent": "run ocifs with `systemd-run --scope --slice`, or use `podman run --cgroup-parent`",
    "--cgroup-conf": "use `podman run --cgroup-conf`",
    "--preserve-fds --preserve-fd": "a command inherits the standard streams only: pass a path with --volume",
    "--sdnotify": "use `podman run --sdnotify`",
    "--systemd": "use `podman run --systemd`, which prepares a container for systemd",
    "--oom-kill-disable": "use --oom-score-adj -1000",
    "--decryption-key": "ocifs reads no encrypted images: decrypt it with `skopeo copy --decryption-key`",
    "--retry": _FETCHED,
    "--retry-delay": _FETCHED,
    "--disable-content-trust": "ocifs verifies every digest, and no signatures",
    "--seccomp-policy": _FIXED,
    "--personality": "use setarch(8) in the container",
    "--requires": "use `podman run --requires`",
    "--pod-id-file": "use `podman run --pod`",
    "--pidfile --conmon-pidfile": f"{_ENDS}, so its own PID serves",
    "--device-cgroup-rule": "use --device HOST:DEVICE:rwm for each device",
    "--cpu-period": "use --cpus",
    "--cpu-quota": "use --cpus",
    "--no-healthcheck": "ocifs runs no health checks: leave it out",
    **dict.fromkeys(
        [
            *("--health-cmd", "--health-interval", "--health-retries", "--health-start-period", "--health-timeout"),
            *("--health-on-failure", "--health-startup-cmd", "--health-startup-interval", "--health-startup-retries"),
            *("--health-startup-success", "--health-startup-timeout", "--health-start-interval"),
            *("--health-log-destination", "--health-max-log-count", "--health-max-log-size"),
        ],
        _NO_HEALTH,
    ),
}
_BY_PODMAN = (
    *("--ip", "--ip6", "--mac-address", "--network-alias", "--net-alias", "--link-local-ip", "--memory-swap"),
    *("--memory-swappiness", "--memory-reservation", "--kernel-memory", "--cpu-rt-period", "--cpu-rt-runtime"),
    *("--cpuset-mems", "--ulimit", "--sysctl", "--pid", "--ipc", "--uts", "--isolation", "--storage-opt"),
    *("--blkio-weight", "--blkio-weight-device", "--device-read-bps", "--device-read-iops", "--device-write-bps"),
    *("--device-write-iops", "--rdt-class", "--gidmap", "--uidmap", "--subgidname", "--subuidname"),
    *("--shm-size-systemd", "--volume-driver", "--domainname"),
)
"""Those for which only podman or docker will do."""


def podman_flags(command: F) -> F:
    """Add the options: each is an error that says what to use."""
    by_podman = ((name, f"use `podman run {name}`") for name in _BY_PODMAN)
    return all_unsupported([*_INSTEAD.items(), *by_podman])(command)
