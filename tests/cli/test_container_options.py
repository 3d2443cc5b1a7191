"""The options of `ocifs run` and `ocifs bundle`: their wrong values, and those of podman that ocifs lacks.

All rows run in this process, before any image is opened.
"""

from pathlib import Path
from typing import cast

import click
import pytest

from ocifs.cli.command import command
from ocifs.cli.container_options import (
    ContainerCommand,
    ContainerOptions,
    container_options,
    refuse_pull,
)
from ocifs.cli.container_values import parse_cpus, parse_entrypoint, parse_memory, parse_pids


@command(cls=ContainerCommand, context_settings={"allow_interspersed_args": False})
@container_options
@click.argument("image")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def _command(
    image: str, args: tuple[str, ...], container: ContainerOptions
) -> tuple[ContainerOptions, tuple[str, ...]]:
    return container, args


def parsed(*arguments: str) -> tuple[ContainerOptions, tuple[str, ...]]:
    """Return the options and the arguments after IMAGE."""
    with _command.make_context("run", list(arguments)) as context:
        return cast("tuple[ContainerOptions, tuple[str, ...]]", _command.invoke(context))


def refused(*arguments: str) -> str:
    """Return the message of the usage error."""
    with pytest.raises(click.UsageError) as raised:
        parsed(*arguments)
    assert raised.value.exit_code == 2
    message = raised.value.format_message()
    assert message.isprintable()
    return message


def test_options_end_at_the_image() -> None:
    container, args = parsed("-it", "-e", "A=1", "img", "grep", "-v", "x", "--user", "web", "--", "f")
    assert args == ("grep", "-v", "x", "--user", "web", "--", "f")
    assert (container.tty, container.interactive, container.overrides.user) == (True, True, None)
    assert container.overrides.env == {"A": "1"}


def test_the_defaults() -> None:
    container, _ = parsed("img")
    assert (container.tty, container.interactive, container.rootfs) == (None, False, None)
    assert (container.settings.network, container.overrides.entrypoint) == ("none", None)
    assert container.settings.limited == {}


def test_later_variables_win_and_the_command_line_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "h")
    (tmp_path / "env").write_text("A=file\nB=file\n")
    container, _ = parsed("-e", "A=1", "--env-file", f"{tmp_path}/env", "-e", "HERE", "-e", "NONE_SUCH", "img")
    assert container.overrides.env == {"A": "1", "B": "file", "HERE": "h"}


@pytest.mark.parametrize(
    ("text", "words"),
    [("", ()), ("sh", ("sh",)), ("a b", ("a b",)), ('["sh", "-c"]', ("sh", "-c")), ("[]", ()), ("[", ("[",))],
)
def test_entrypoints(text: str, words: tuple[str, ...]) -> None:
    assert parse_entrypoint(text) == words


def test_numbers_without_a_limit() -> None:
    assert (parse_memory("0"), parse_cpus("0"), parse_pids("-1"), parse_pids("0")) == (None, None, None, None)
    assert (parse_memory("64m"), parse_cpus("0.5"), parse_pids("7")) == (64 << 20, 0.5, 7)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--volume", "data:/x"),
        ("--volume", "/none/such:/x"),
        ("--mount", "type=volume,target=/x"),
        ("--tmpfs", "x"),
        ("--env", "=1"),
        ("--env-file", "/none/such"),
        ("--entrypoint", "[1]"),
        ("--workdir", "srv"),
        ("--workdir", "/a/../.."),
        ("--network", "bridge"),
        ("--network", ""),
        ("--hostname", "a b"),
        ("--add-host", "db"),
        ("--cap-add", "FOO"),
        ("--cap-drop", "\x1b[2J"),
        ("--memory", "lots"),
        ("--memory", "1k"),
        ("--memory", "-1"),
        ("--cpus", "0.001"),
        ("--cpus", "nan"),
        ("--cpus", "inf"),
        ("--cpus", "1e99"),
        ("--pids-limit", "x"),
        ("--pids-limit", "-2"),
        ("--device", "/none/such"),
        ("--pull", "sometimes"),
        ("--rootfs", "none"),
    ],
)
def test_a_wrong_value_is_named_with_its_option(option: str, value: str) -> None:
    assert option in refused(option, value, "img")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tmpfs", "/x", "--tmpfs", "/x/"], "/x is the destination of two mounts"),
        (["--cap-add", "chown", "--cap-drop", "CAP_CHOWN"], "CAP_CHOWN is both added and dropped"),
        (["--read-only", "--rootfs", "tmpfs"], "--read-only and --rootfs tmpfs exclude each other"),
        (["--add-host", "db:::1", "-v", "/etc/hosts:/etc/hosts"], "--add-host and a mount on /etc/hosts"),
    ],
)
def test_conflicts_are_named(arguments: list[str], named: str) -> None:
    assert named in refused(*arguments, "img")


_ALIASED = """unqualified-search-registries = ["host.example"]
[aliases]
alias = "other.example/team/app"
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["img:1"], None),
        (["oci:img"], None),
        (["docker-daemon:app"], None),
        (["containers-storage:app"], None),
        (["docker://host/image"], "docker://host/image is in a registry: copy it into a layout with `skopeo copy`"),
        (["docker://host/image~1"], "in a registry"),
        (["alias:2"], "alias:2 is in a registry, docker://other.example/team/app:2: copy it"),
        (["debian"], "debian is in a registry, docker://host.example/debian: copy it"),
        (["https://me:pw@host/a.tar"], "the image is in an archive on a web server: download it first"),
        (["--mount", "type=image,source=img,target=/x", "img"], None),
        (["--mount", "type=image,source=docker://host/tools,target=/x", "img"], "docker://host/tools is in a registry"),
        (["--mount", "type=image,source=debian,target=/x", "img"], "debian is in a registry, docker://host.example"),
        (["--mount", "type=image,source=https://host/a.tar:1,target=/x", "img"], "archive on a web server"),
    ],
)
def test_pull_never(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str | None
) -> None:
    """What a name stands for decides, not how it is written."""
    (tmp_path / "registries.conf").write_text(_ALIASED)
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "img").mkdir()
    for policy in ("always", "missing", "newer", "never"):
        container, _ = parsed("--pull", policy, *arguments)
        if policy != "never" or message is None:
            refuse_pull(container, arguments[-1])
            continue
        with pytest.raises(click.UsageError) as caught:
            refuse_pull(container, arguments[-1])
        assert message in caught.value.message
        assert "pw" not in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (["-d", "img"], "`podman run -d` or `nerdctl run -d`"),
        (["-itd", "img"], "`podman run -d`"),
        (["-p", "80:80", "img"], "`podman run -p`"),
        (["--publish=80:80", "img"], "`podman run -p`"),
        (["-P", "img"], "`podman run -P`"),
        (["--restart", "always", "img"], "`podman run --restart`"),
        (["--link", "db", "img"], "`podman run --pod`"),
        (["--gpus", "all", "img"], "`nerdctl run --gpus`"),
        (["--net", "bridge", "img"], "`podman run --network bridge`"),
        (["-v", "data:/x", "img"], "`podman run -v`"),
        (["--shm-size", "1g", "img"], "--tmpfs /dev/shm:size=SIZE"),
        (["--ulimit", "nofile=1", "img"], "`podman run --ulimit`"),
        (["--security-opt", "seccomp=unconfined", "img"], "`podman run --security-opt`"),
        (["--dns", "1.1.1.1", "img"], "/etc/resolv.conf"),
        (["--sig-proxy=false", "img"], "always forwards signals"),
    ],
)
def test_what_podman_does_is_named(arguments: list[str], instead: str) -> None:
    assert instead in refused(*arguments)


@pytest.mark.parametrize(
    ("options", "process"),
    [
        (["--umask", "0027"], ("umask", 0o27)),
        (["--umask", "77"], ("umask", 0o77)),
        (["--oom-score-adj", "-1000"], ("oom_score_adj", -1000)),
        (["--annotation", "a.b=c=d", "--annotation", "e="], ("annotations", (("a.b", "c=d"), ("e", "")))),
    ],
)
def test_settings_of_podman(options: list[str], process: tuple[str, object]) -> None:
    container, _ = parsed(*options, "img")
    assert getattr(container.settings, process[0]) == process[1]


def test_variables_are_left_out() -> None:
    container, _ = parsed("--unsetenv", "A", "--unsetenv", "B", "--unsetenv-all", "img")
    assert container.overrides.unset_env == ("A", "B")
    assert container.overrides.unset_all


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--umask", "8"], "octal mask"),
        (["--umask", "1777"], "octal mask"),
        (["--umask", ""], "octal mask"),
        (["--oom-score-adj", "1001"], "from -1000 to 1000"),
        (["--oom-score-adj", "x"], "from -1000 to 1000"),
        (["--annotation", "x"], "KEY=VALUE"),
        (["--annotation", "=x"], "KEY=VALUE"),
        (["--annotation", "a=\udcff"], "not UTF-8"),
        (["-u", "4294967295"], "user ID 4294967295 is out of range 0 to 4294967294"),
        (["--user", "0:-1"], "group ID -1 is out of range"),
        (["-h", "not a host"], "not a host name"),
        (["-h", ""], "not a host name"),
    ],
)
def test_wrong_values_of_these(options: list[str], message: str) -> None:
    assert message in refused(*options, "img")


def test_h_is_the_host_name_as_in_podman() -> None:
    container, args = parsed("-h", "box", "img", "ls", "-h")
    assert container.overrides.hostname == "box"
    assert args == ("ls", "-h")
    assert parsed("img", "-h")[1] == ("-h",)


def test_h_alone_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit) as raised:
        parsed("-h")
    assert raised.value.exit_code == 0
    assert "--hostname" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--replace", "ocifs umount"),
        ("--timeout=5", "timeout(1)"),
        ("--cgroupns=host", "cgroup namespace of its own"),
        ("--ulimit=nofile=1", "use `podman run --ulimit`"),
        ("--health-interval=1s", "podman run"),
        ("--retry-delay=1s", "ocifs fetches"),
    ],
)
def test_flags_of_podman_say_what_to_use(option: str, message: str) -> None:
    assert message in refused(option, "img")
