"""The files that a container engine supplies, and the names in them."""

from pathlib import Path

import pytest

from ocifs.bundle.host_files import host_files, parse_added_host, parse_hostname


def test_without_a_network_there_is_only_this_container(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.0.0.1 secret\n")
    (tmp_path / "resolv.conf").write_text("nameserver 10.0.0.2\n")
    assert host_files("none", "box", [("10.0.0.9", "db")], tmp_path) == {
        "/etc/hostname": b"box\n",
        "/etc/hosts": b"127.0.0.1\tlocalhost\n::1\tlocalhost\n10.0.0.9\tdb\n127.0.1.1\tbox\n",
    }


def test_on_the_host_s_network_names_are_the_host_s(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 localhost host\n")
    (tmp_path / "resolv.conf").write_text("nameserver 10.0.0.2\n")
    assert host_files("host", "box", [("::1", "db")], tmp_path) == {
        "/etc/hostname": b"box\n",
        "/etc/hosts": b"::1\tdb\n127.0.1.1\tbox\n127.0.0.1 localhost host\n",
        "/etc/resolv.conf": b"nameserver 10.0.0.2\n",
    }


def test_a_host_without_the_files(tmp_path: Path) -> None:
    assert host_files("host", "box", [], tmp_path) == {
        "/etc/hostname": b"box\n",
        "/etc/hosts": b"127.0.1.1\tbox\n127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    }


@pytest.mark.parametrize(
    ("text", "added"),
    [
        ("db:10.0.0.1", ("10.0.0.1", "db")),
        ("db=10.0.0.1", ("10.0.0.1", "db")),
        ("db:::1", ("::1", "db")),
        ("a.b-c:[fe80::1]", ("fe80::1", "a.b-c")),
    ],
)
def test_added_hosts(text: str, added: tuple[str, str]) -> None:
    assert parse_added_host(text) == added


@pytest.mark.parametrize("text", ["", "db", "db:", ":10.0.0.1", "db:host-gateway", "a b:::1", "db:10.0.0.1\n1.1.1.1 x"])
def test_a_line_that_would_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="NAME:ADDRESS"):
        parse_added_host(text)


@pytest.mark.parametrize("text", ["", "-x", "a b", "a\n", "x" * 65, "é"])
def test_names_that_hosts_do_not_have(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        parse_hostname(text)
    assert parse_hostname("x" * 64) == "x" * 64
