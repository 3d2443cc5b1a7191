import pytest

from ocifs.errors import InvalidImageError
from ocifs.spec.config import History, parse_config
from ocifs.spec.digest import Digest
from ocifs.spec.platform import Platform
from tests.images import Json, to_json

X = Digest.of(b"x")
ROOTFS: Json = {"type": "layers", "diff_ids": [X]}


def test_all_members() -> None:
    config = parse_config(
        to_json(
            {
                "created": "2024-01-02T03:04:05Z",
                "author": "someone",
                "os": "linux",
                "architecture": "arm",
                "variant": "v7",
                "rootfs": ROOTFS,
                "config": {
                    "User": "1000:1000",
                    "Env": ["A=b"],
                    "Entrypoint": ["/bin/sh"],
                    "Cmd": ["-c", "true"],
                    "WorkingDir": "/work",
                    "Labels": {"a": "b"},
                    "ExposedPorts": {"80/tcp": {}},
                    "Volumes": {"/data": {}},
                    "StopSignal": "SIGTERM",
                    "Healthcheck": {"Interval": 1},
                },
                "history": [{"created_by": "RUN", "empty_layer": True}],
            }
        ),
        "x",
    )
    assert config.platform == Platform("linux", "arm", "v7")
    assert (config.created, config.author) == ("2024-01-02T03:04:05Z", "someone")
    assert config.rootfs.diff_ids == (X,)
    assert isinstance(config.rootfs.diff_ids[0], Digest)
    assert config.history == (History(created_by="RUN", empty_layer=True),)
    run = config.config
    assert (run.user, run.env, run.entrypoint) == ("1000:1000", ("A=b",), ("/bin/sh",))
    assert (run.cmd, run.working_dir, run.stop_signal) == (("-c", "true"), "/work", "SIGTERM")
    assert (run.labels, list(run.exposed_ports), list(run.volumes)) == ({"a": "b"}, ["80/tcp"], ["/data"])


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"config": None, "history": None},
        {"config": {"Env": None, "Cmd": None, "Entrypoint": None, "Labels": None, "Volumes": None}},
    ],
)
def test_absent_members_are_empty(members: Json) -> None:
    config = parse_config(to_json({"rootfs": {"type": "layers", "diff_ids": None}} | members), "x")
    assert config.rootfs.diff_ids == ()
    assert config.config.env == ()
    assert config.history == ()


@pytest.mark.parametrize("value", [None, {}, {"odd": None}])
def test_members_of_a_set_may_be_null(value: object) -> None:
    """In Go they are of a struct without members, so null makes one."""
    document = {"rootfs": ROOTFS, "config": {"Volumes": {"/data": value}, "ExposedPorts": {"80": value}, "Cmd": None}}
    config = parse_config(to_json(document), "x").config
    assert (list(config.volumes), list(config.exposed_ports), config.cmd) == (["/data"], ["80"], ())


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "rootfs"),
        ({"rootfs": {"diff_ids": []}}, "type"),
        ({"rootfs": {"type": "snapshots\x1b", "diff_ids": []}}, r"rootfs\.type"),
        ({"rootfs": {"type": "layers", "diff_ids": ["sha256:no"]}}, r"diff_ids\[0\]"),
        ({"rootfs": {"type": "layers", "diff_ids": [5]}}, r"diff_ids\[0\]"),
        ({"rootfs": ROOTFS, "config": []}, "config"),
        ({"rootfs": ROOTFS, "config": {"Env": "A=b"}}, r"config\.env|config\.Env"),
        ({"rootfs": ROOTFS, "config": {"Labels": {"a": 5}}}, "abels"),
        ({"rootfs": ROOTFS, "os": 5}, "os"),
        ([], "object"),
    ],
)
def test_malformed(document: object, message: str) -> None:
    with pytest.raises(InvalidImageError, match=f"config x is malformed: .*{message}") as caught:
        parse_config(to_json(document), "config x")
    assert str(caught.value).isprintable()
