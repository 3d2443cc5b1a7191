"""What becomes of each member of an image's config."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ocifs.bundle.config import Host, Overrides, check_mountpoints, parse_environment, runtime_spec
from ocifs.bundle.runtime_spec import Spec, to_json
from ocifs.bundle.user import Accounts
from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, UnsupportedError
from ocifs.image.opening import open_image
from ocifs.spec.config import parse_config
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, symlink, tar

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


def test_args_of_the_user_replace_entrypoint_and_cmd() -> None:
    assert process({"Entrypoint": ["/e"]}, Overrides(args=("a", "b")))["args"] == ["a", "b"]


@pytest.mark.parametrize("config", [{"Cmd": None}, {"Cmd": []}, {"Cmd": [""]}])
def test_nothing_to_run_is_an_error(config: dict[str, Any]) -> None:
    with pytest.raises(NotFoundError, match="no command"):
        made_of(config)


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


@pytest.mark.parametrize("variable", ["A", "", "=1", "A=\0"])
def test_a_variable_that_is_none_is_an_error(variable: str) -> None:
    with pytest.raises(InvalidImageError):
        made_of({"Env": [variable]})


@pytest.mark.parametrize(
    ("directory", "cwd"),
    [("", "/"), ("/", "/"), ("/srv/app/", "/srv/app"), ("/a//b/./c", "/a/b/c"), ("//x", "/x"), ("/a/..b", "/a/..b")],
)
def test_cwd(directory: str, cwd: str) -> None:
    assert process({"WorkingDir": directory})["cwd"] == cwd


@pytest.mark.parametrize("directory", ["srv", "./srv", "../../etc", "/srv/../../etc", "/..", "/a\0b"])
def test_a_relative_or_escaping_working_directory_is_an_error(directory: str) -> None:
    with pytest.raises(InvalidImageError, match="working directory"):
        made_of({"WorkingDir": directory})


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


def test_volumes_are_mounts_in_order() -> None:
    spec, _ = made_of({"Volumes": {"/var/lib/db/": {}, "/data": {}}})
    assert [mount.destination for mount in spec.mounts[-2:]] == ["/data", "/var/lib/db"]
    assert {mount.type for mount in spec.mounts[-2:]} == {"tmpfs"}


@pytest.mark.parametrize("volume", ["data", "/", "//", "/data/../..", ""])
def test_a_volume_that_is_no_place_below_the_root_is_an_error(volume: str) -> None:
    with pytest.raises(InvalidImageError, match="volume"):
        made_of({"Volumes": {volume: {}}})


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


def test_rootless_has_mappings_and_no_more_groups() -> None:
    spec, _ = made_of({"User": "0"}, host=Host(readonly=True, rootless=(1000, 100)))
    linux = msgspec.json.decode(to_json(spec))["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": 100, "size": 1}]
    assert spec.process.user.additional_gids == ()
    with pytest.raises(UnsupportedError, match="--user 0:0"):
        made_of({"User": "web"}, host=Host(readonly=True, rootless=(1000, 100)))


def test_variables_of_the_command_line() -> None:
    assert parse_environment(("A=1", "B", "C", "D="), {"B": "2"}) == {"A": "1", "B": "2", "D": ""}
    for wrong in ("", "=1"):
        with pytest.raises(OcifsError, match="--env"):
            parse_environment((wrong,), {})


@pytest.mark.parametrize(
    ("members", "usable"),
    [
        ([directory(b"proc"), directory(b"dev"), directory(b"sys")], True),
        ([symlink(b"proc", b"/elsewhere"), directory(b"elsewhere"), directory(b"dev"), directory(b"sys")], True),
        ([symlink(b"proc", b"../../elsewhere"), directory(b"elsewhere"), directory(b"dev"), directory(b"sys")], True),
        ([symlink(b"proc", b"/nowhere"), directory(b"dev"), directory(b"sys")], False),
        ([symlink(b"dev", b"dev"), directory(b"proc"), directory(b"sys")], False),
        ([file(b"sys"), directory(b"dev"), directory(b"proc")], False),
        ([], False),
    ],
)
def test_what_is_mounted_on_is_looked_up_in_the_image(tmp_path: Path, members: list[bytes], usable: bool) -> None:
    """Whatever the host has there; the image is left as it is, for the runtime to withstand."""
    spec, _ = made_of()
    with open_image(write_layout(tmp_path / "image", Image((Layer(tar(members)),)))) as image:
        if usable:
            check_mountpoints(spec, image.rootfs)
        else:
            with pytest.raises(UnsupportedError, match="use --rootfs overlay or tmpfs"):
                check_mountpoints(spec, image.rootfs)
