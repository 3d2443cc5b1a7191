"""Commands that compare and search agree with the tools whose habits they follow, on the unpacked trees."""

import base64
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Ocifs

_LETTERS = {"c": "content", "s": "size", "t": "mtime", "p": "mode", "o": "owner", "g": "owner", "x": "xattr"}


def _rsync(before: Path, after: Path) -> dict[str, frozenset[str]]:
    """Return what rsync would do to make the one of the other: path to what differs."""
    command = ["rsync", "-aAXnc", "--numeric-ids", "--delete", "--itemize-changes", f"{after}/", f"{before}/"]
    ran = subprocess.run(command, capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    found: dict[str, frozenset[str]] = {}
    for line in ran.stdout.splitlines():
        what, path = line[:11].decode(), re.sub(rb"\\#(\d{3})", lambda m: bytes([int(m[1], 8)]), line[12:])
        if what[1] == "L":
            path = path.partition(b" -> ")[0]
        name = "/" + os.fsdecode(path).removesuffix("/").removeprefix(".")
        if what.startswith("*deleting"):
            found.setdefault(name, frozenset({"removed"}))
        elif "+" in what:
            found[name] = frozenset({"added"})
        else:
            found[name] = frozenset(_LETTERS[letter] for letter in what[2:] if letter in _LETTERS)
    return found


def test_diff_is_what_rsync_would_do(session_ocifs: Ocifs, debian: Path, root: None) -> None:
    result = session_ocifs.run("diff", "--json", f"{debian}:base", f"{debian}:latest")
    assert (result.code, result.err) == (1, "")
    found = {}
    for line in result.text.splitlines():
        told = json.loads(line)
        aspects = set(told.get("aspects", [told["change"]]))
        # rsync makes a file of another type anew.
        path = base64.b64decode(told["path_base64"]) if "path_base64" in told else told["path"].encode()
        found[os.fsdecode(path)] = frozenset({"added"} if "type" in aspects else aspects)
    expected = _rsync(debian / "bundle-base/rootfs", debian / "bundle-latest/rootfs")
    assert len(expected) > 20_000
    assert found == expected


@pytest.mark.parametrize("way", ["~1", "~0"])
def test_diff_of_layers(session_ocifs: Ocifs, debian: Path, root: None, way: str) -> None:
    result = session_ocifs.run("diff", "--json", f"{debian}:latest{way}", f"{debian}:latest")
    assert (result.code == 1, result.err) == (way == "~1", "")
    if way == "~0":
        assert result.out == b""


def test_grep_finds_what_grep_finds(session_ocifs: Ocifs, debian: Path, root: None) -> None:
    place = debian / "bundle-latest/rootfs"
    # Of binary files grep counts lines that end with a NUL, too.
    for options, pattern, paths in [
        (["-n"], "^# .*[Dd]ebian$", ["etc", "usr/bin", "usr/share/perl5"]),
        (["-c", "-w"], "root", ["etc/passwd", "usr/share/perl5"]),
        (["-l", "-i"], "LIBSSL", ["usr/bin", "usr/sbin", "etc"]),
    ]:
        command = ["grep", "-r", *options, "-e", pattern, *paths]
        ran = subprocess.run(command, cwd=place, capture_output=True, check=True, env={"LC_ALL": "C"})
        result = session_ocifs.run("grep", *options, pattern, f"{debian}:latest", *paths)
        expected = sorted(
            re.sub(rb"^grep: (.*): binary file matches$", rb"Binary file \1 matches", line)
            for line in ran.stdout.splitlines()
            if not line.endswith(b":0")
        )
        assert (result.code, result.err) == (0, "")
        assert sorted(result.out.splitlines()) == expected


def test_all_of_it_is_proven(session_ocifs: Ocifs, debian: Path, root: None) -> None:
    session_ocifs.run("index", f"{debian}:latest")
    lines = session_ocifs.output("verify", f"{debian}:latest").splitlines()
    assert all(line.startswith("ok  ") for line in lines[:-1])
    assert "checks passed, " in lines[-1]
    assert any("tree image 2" in line and "those of a new merge" in line for line in lines)


def test_what_is_hidden_is_what_is_stored_and_not_seen(session_ocifs: Ocifs, debian: Path, root: None) -> None:
    told = json.loads(session_ocifs.output("waste", "--json", "-n", "100000", f"{debian}:latest"))
    assert sum(each["size"] for each in told["hidden"]) == sum(each["hidden"] for each in told["layers"])
    seen = sum(each["stored"] - each["hidden"] for each in told["layers"])
    listed = session_ocifs.output("find", "--json", f"{debian}:latest", "/", "-type", "f").splitlines()
    sizes = {each["inode"]: each["size"] for each in map(json.loads, listed)}
    assert seen <= sum(sizes.values())  # less only by the holes of sparse files
    assert 0.9 < told["efficiency"] < 1
