"""What becomes of each member of an image's config, and of each blemish in the table of docs/cli.md."""

from typing import Any

import msgspec
import pytest

from ocifs.bundle.config import Host, runtime_spec
from ocifs.bundle.overrides import Overrides
from ocifs.bundle.runtime_spec import Spec, to_json
from ocifs.errors import InvalidImageError, NotFoundError, UnsupportedError
from ocifs.image.passwd import Accounts
from ocifs.spec.config import parse_config

_ACCOUNTS = Accounts(b"root:x:0:0::/root:\nweb:x:33:33::/var/www:\n", b"adm:x:4:web\n")
_DIFF_IDS = {"type": "layers", "diff_ids": []}
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def made_of(
    config: dict[str, Any] | None = None,
    image: dict[str, Any] | None = None,
    overrides: Overrides | None = None,
    host: Host | None = None,
) -> tuple[Spec, list[str]]:
    """Return the spec of an image with a command, and the warnings."""
    document = {"os": "linux", "architecture": "amd64", "rootfs": _DIFF_IDS, "config": {"Cmd": ["sh"]} | (config or {})}
    warnings: list[str] = []
    parsed = parse_config(msgspec.json.encode(document | (image or {})), "config")
    spec = runtime_spec(parsed, _ACCOUNTS, overrides or Overrides(), host or Host(readonly=True), warnings.append)
    return spec, warnings


def process(config: dict[str, Any], overrides: Overrides | None = None) -> Any:
    return msgspec.json.decode(to_json(made_of(config, overrides=overrides)[0]))["process"]


@pytest.mark.parametrize(
    ("config", "args"),
    [
        ({"Entrypoint": ["/e", "1"], "Cmd": ["2"]}, ["/e", "1", "2"]),
        ({"Entrypoint": ["/e"], "Cmd": None}, ["/e"]),
        ({"Cmd": ["c", ""]}, ["c", ""]),
    ],
)
def test_args(config: dict[str, Any], args: list[str]) -> None:
    assert process(config)["args"] == args


@pytest.mark.parametrize(
    ("overrides", "args"),
    [
        (Overrides(args=("a", "b")), ["/e", "1", "a", "b"]),
        (Overrides(entrypoint=("/x",)), ["/x"]),
        (Overrides(entrypoint=("/x", "y"), args=("a",)), ["/x", "y", "a"]),
        (Overrides(entrypoint=(), args=("a",)), ["a"]),
    ],
)
def test_args_follow_the_entrypoint_and_replace_cmd(overrides: Overrides, args: list[str]) -> None:
    """As in podman and Docker; Cmd belongs to the image's entrypoint only."""
    assert process({"Entrypoint": ["/e", "1"], "Cmd": ["c"]}, overrides)["args"] == args


def test_a_cleared_entrypoint_leaves_nothing_to_run() -> None:
    with pytest.raises(NotFoundError, match="no command"):
        process({"Entrypoint": ["/e"], "Cmd": ["c"]}, Overrides(entrypoint=()))


@pytest.mark.parametrize(
    "config",
    [{"Cmd": None}, {"Cmd": []}, {"Cmd": [""]}, {"Entrypoint": [""], "Cmd": None}, {"Entrypoint": ["", "x"]}],
)
def test_nothing_to_run_is_an_error(config: dict[str, Any]) -> None:
    with pytest.raises(NotFoundError, match="no command"):
        made_of(config)


def test_an_entrypoint_of_one_empty_word_is_none() -> None:
    """Docker writes that where the entrypoint of a base image is taken away."""
    assert process({"Entrypoint": [""], "Cmd": ["c", "d"]})["args"] == ["c", "d"]
    assert process({"Entrypoint": [""], "Cmd": None}, Overrides(args=("a",)))["args"] == ["a"]


def test_a_command_with_a_nul_character_is_an_error() -> None:
    with pytest.raises(InvalidImageError, match="NUL"):
        made_of({"Cmd": ["a\0b"]})


@pytest.mark.parametrize(
    ("env", "given", "expected"),
    [
        ([], {}, [_PATH, "TERM=xterm", "HOME=/root"]),
        (["PATH=/bin", "A=1=2"], {}, ["PATH=/bin", "TERM=xterm", "A=1=2", "HOME=/root"]),
        (["A=1", "A=2"], {}, [_PATH, "TERM=xterm", "A=2", "HOME=/root"]),
        (["HOME=/own", "EMPTY="], {}, [_PATH, "TERM=xterm", "HOME=/own", "EMPTY="]),
        (["A=1"], {"A": "2", "TERM": "vt100"}, [_PATH, "TERM=vt100", "A=2", "HOME=/root"]),
    ],
)
def test_env(env: list[str], given: dict[str, str], expected: list[str]) -> None:
    assert process({"Env": env}, Overrides(env=given))["env"] == expected


@pytest.mark.parametrize("variable", ["A", "", "=", "=1", "A=\0", "\x1b[31m"])
def test_a_variable_that_is_none_is_skipped(variable: str) -> None:
    spec, warnings = made_of({"Env": [variable, "B=2"]}, overrides=Overrides(env={"A": "mine"}))
    assert spec.process.env == (_PATH, "TERM=xterm", "B=2", "HOME=/root", "A=mine")
    (warning,) = warnings
    assert warning.endswith("in the image's environment is skipped: it is not NAME=VALUE")
    assert warning.isprintable()


@pytest.mark.parametrize(
    ("directory", "cwd"),
    [("", "/"), ("/", "/"), ("/srv/app/", "/srv/app"), ("/a//b/./c", "/a/b/c"), ("//x", "/x"), ("/a/..b", "/a/..b")],
)
def test_cwd(directory: str, cwd: str) -> None:
    assert process({"WorkingDir": directory})["cwd"] == cwd


@pytest.mark.parametrize(
    ("directory", "cwd"),
    [("srv", "/srv"), ("./srv", "/srv"), ("../../etc", "/etc"), ("/srv/../../etc", "/etc"), ("/..", "/"), (".", "/")],
)
def test_a_relative_or_escaping_working_directory_is_taken_from_the_root(directory: str, cwd: str) -> None:
    spec, warnings = made_of({"WorkingDir": directory})
    assert spec.process.cwd == cwd
    assert warnings == [f"working directory '{directory}' is not an absolute path without '..': using {cwd}"]


def test_a_working_directory_with_a_nul_character_is_an_error() -> None:
    with pytest.raises(InvalidImageError, match="NUL"):
        made_of({"WorkingDir": "/a\0b"})


def test_user() -> None:
    assert process({"User": "web"})["user"] == {"uid": 33, "gid": 33, "additionalGids": [4]}
    assert process({"User": "web"}, Overrides(user=""))["user"] == {"uid": 0, "gid": 0}
    with pytest.raises(NotFoundError):
        made_of({"User": "nobody"})


def test_terminal_hostname_and_readonly() -> None:
    spec, _ = made_of(overrides=Overrides(terminal=False, hostname="box"), host=Host(readonly=False))
    assert (spec.process.terminal, spec.hostname, spec.root.readonly) == (False, "box", False)
    spec, _ = made_of()
    assert (spec.process.terminal, spec.hostname, spec.root.readonly) == (True, "ocifs", True)


@pytest.mark.parametrize(
    ("config", "annotations"),
    [
        ({"Labels": {"": "no name", "a b": "", "\x1b": "x"}}, {"a b": "", "\x1b": "x"}),
        ({"Labels": {"a": None}}, {}),
        ({"ExposedPorts": {"80": {}, "no/port": None}}, {"org.opencontainers.image.exposedPorts": "80,no/port"}),
        ({"StopSignal": "SIGNOSUCH"}, {"org.opencontainers.image.stopSignal": "SIGNOSUCH"}),
        ({"Healthcheck": {"Test": ["NONE"]}, "Unknown": 1, "ArgsEscaped": True}, {}),
    ],
)
def test_odd_members_without_an_effect_are_no_blemish(config: dict[str, Any], annotations: dict[str, str]) -> None:
    spec, warnings = made_of(config)
    implicit = {"org.opencontainers.image.os": "linux", "org.opencontainers.image.architecture": "amd64"}
    assert spec.annotations == implicit | annotations
    assert warnings == []


def test_annotations() -> None:
    spec, warnings = made_of(
        {
            "Labels": {"a": "1", "org.opencontainers.image.author": "by label", "": "no key"},
            "StopSignal": "SIGINT",
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        },
        {
            "author": "by field",
            "created": "2026-01-02T03:04:05Z",
            "variant": "v8",
            "os.version": "6",
            "os.features": ["x"],
        },
    )
    prefix = "org.opencontainers.image."
    assert spec.annotations == {
        "a": "1",
        f"{prefix}os": "linux",
        f"{prefix}architecture": "amd64",
        f"{prefix}variant": "v8",
        f"{prefix}os.version": "6",
        f"{prefix}os.features": "x",
        f"{prefix}author": "by label",
        f"{prefix}created": "2026-01-02T03:04:05Z",
        f"{prefix}stopSignal": "SIGINT",
        f"{prefix}exposedPorts": "53/udp,80/tcp",
    }
    assert warnings == []


@pytest.mark.parametrize("label", ["run.oci.hooks.stderr", "org.systemd.property.ExecStart", "org.criu.config"])
def test_labels_that_would_give_the_runtime_orders_are_left_out(label: str) -> None:
    spec, warnings = made_of({"Labels": {label: "x", "fine": "y"}})
    assert label not in spec.annotations
    assert spec.annotations["fine"] == "y"
    assert len(warnings) == 1
    assert label in warnings[0]


def test_an_image_for_another_system_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="for windows"):
        made_of(image={"os": "windows"})


def test_an_image_for_no_system_is_taken_to_be_for_linux() -> None:
    assert made_of(image={"os": ""})[1] == ["the image's config names no operating system: assuming linux"]
    assert made_of(image={"os": "Linux"})[1] == []


def test_rootless_has_mappings_and_no_more_groups() -> None:
    spec, _ = made_of({"User": "0"}, host=Host(readonly=True, rootless=(1000, 100)))
    linux = msgspec.json.decode(to_json(spec))["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": 100, "size": 1}]
    assert spec.process.user.additional_gids == ()
    with pytest.raises(UnsupportedError, match="--user 0:0"):
        made_of({"User": "web"}, host=Host(readonly=True, rootless=(1000, 100)))
