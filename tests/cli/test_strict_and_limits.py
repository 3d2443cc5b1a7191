"""`--strict`, `--limit` and their variables: on every verb that opens an image."""

import importlib
from pathlib import Path

import click
import pytest

from ocifs.cli.verbs import VERBS
from tests.cli.command import Ocifs
from tests.images import Image, Json, Layer, write_layout
from tests.tars import directory, file, tar

_TWICE = tar([file(b"f", b"1"), file(b"f", b"2"), directory(b"etc")])
_SAID = "tree: layer 0, entry 'f' occurs twice; the later one counts: refused by --strict"

# How each verb is called; those of the second table open no layer.
_READING = {
    "mount": ["IMAGE", "MOUNTPOINT"],
    "bundle": ["--args", "x", "IMAGE", "NEW"],
    "run": ["IMAGE", "--", "x"],
    "index": ["IMAGE"],
    "ls": ["IMAGE"],
    "tree": ["IMAGE"],
    "find": ["IMAGE"],
    "stat": ["IMAGE", "/"],
    "blame": ["IMAGE", "/f"],
    "du": ["IMAGE"],
    "cat": ["IMAGE", "/f"],
    "head": ["IMAGE", "/f"],
    "tail": ["IMAGE", "/f"],
    "cp": ["IMAGE", "/f", "NEW"],
    "grep": ["x", "IMAGE"],
    "diff": ["IMAGE", "IMAGE"],
    "waste": ["IMAGE"],
    "verify": ["IMAGE"],
    "export": ["IMAGE", "--to-dir", "NEW"],
    "explore": ["IMAGE"],
    "report": ["IMAGE", "--output", "NEW"],
    "store add": ["NEW", "IMAGE"],
}
_DOCUMENTS_ONLY = {"inspect": ["IMAGE"], "history": ["IMAGE"], "tags": ["IMAGE"]}
_WITHOUT_IMAGE = {"umount", "mounts", "cache", "completion", "help", "service", "setup-mount"}
_OF_MANY_IMAGES = {"snapshotter serve"}
_OPENING = {"index": "make", "store": "add", "snapshotter": "serve"}
"""The subcommand that opens an image. `ocifs index IMAGE` is `ocifs index make IMAGE`."""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "odd", Image((Layer(_TWICE),)))


def arguments(ocifs: Ocifs, verb: str, image: Path) -> list[str]:
    places = {"IMAGE": str(image), "NEW": str(ocifs.home / "new")}
    words = (_READING | _DOCUMENTS_ONLY)[verb]
    return [str(ocifs.mountpoint()) if word == "MOUNTPOINT" else places.get(word, word) for word in words]


def test_every_verb_that_opens_an_image_has_them() -> None:
    found = {}
    for verb, (module, _) in [row for verbs in VERBS.values() for row in verbs.items()]:
        command = getattr(importlib.import_module(f"ocifs.cli.{module}"), verb.replace("-", "_"))
        assert isinstance(command, click.Command)
        name = verb
        if isinstance(command, click.Group) and verb in _OPENING:
            command = command.commands[_OPENING[verb]]
            name = verb if verb in _READING else f"{verb} {_OPENING[verb]}"
        found[name] = {"strict", "limits"} & {parameter.name for parameter in command.params}
    assert {verb for verb, options in found.items() if options == set()} == _WITHOUT_IMAGE
    assert {verb for verb, options in found.items() if options == {"limits"}} == set(_DOCUMENTS_ONLY) | _OF_MANY_IMAGES
    assert {verb for verb, options in found.items() if options == {"strict", "limits"}} == set(_READING)


@pytest.mark.parametrize("verb", sorted(_READING.keys() - {"verify", "explore"}))
def test_strict_is_one_line(ocifs: Ocifs, odd: Path, verb: str, fuse: None) -> None:
    assert ocifs.complaint(4, *verb.split(), "--strict", *arguments(ocifs, verb, odd)) == _SAID
    assert not (ocifs.home / "new").exists() or verb == "store add", "that leaves an empty store"


@pytest.mark.parametrize("verb", sorted((_READING | _DOCUMENTS_ONLY).keys() - {"explore", "verify"}))
def test_limits_are_kept(ocifs: Ocifs, odd: Path, verb: str, fuse: None) -> None:
    complaint = ocifs.complaint(6, *verb.split(), "--limit", "document=100", *arguments(ocifs, verb, odd))
    assert complaint.endswith("over the limit document=100; if you trust the image, raise it with --limit")
    assert not (ocifs.home / "new").exists() or verb == "store add", "that leaves an empty store"


def test_verify_lists_what_is_odd(ocifs: Ocifs, odd: Path) -> None:
    assert ocifs.run("verify", odd).code == 0
    result = ocifs.run("verify", "--strict", odd)
    assert (result.code, result.err) == (4, "")
    assert _SAID in result.text


def test_the_cache_remembers(ocifs: Ocifs, odd: Path) -> None:
    first = ocifs.run("ls", odd)
    assert (first.code, first.err.count("warning:")) == (0, 1)
    assert ocifs.run("ls", odd).err == ""
    assert ocifs.complaint(4, "ls", "--strict", odd) == _SAID
    assert ocifs.complaint(4, "ls", odd, OCIFS_STRICT="1") == _SAID


def test_several_limits(ocifs: Ocifs, odd: Path) -> None:
    assert ocifs.complaint(6, "ls", "--limit", "xattrs=1KiB", "--limit", "entries=2", odd).endswith(
        "more than 2 tar entries: over the limit entries=2; if you trust the image, raise it with --limit"
    )
    assert "limit entries=1;" in ocifs.complaint(6, "ls", odd, OCIFS_LIMITS="xattrs=1k entries=1")
    assert ocifs.run("ls", "--limit", "entries=3", odd, OCIFS_LIMITS="entries=1").code == 0
    assert "limit extended-headers=0;" in ocifs.complaint(
        6, "ls", "--limit", "extended-headers=0", write_layout(odd.parent / "long", Image((Layer(_LONG),)))
    )


_LONG = tar([file(b"././@LongLink", b"long name\0", flag=b"L"), file(b"cut")])


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("no-such=5", "'no-such' is not a limit"),
        ("entries", "'' is not a number; write entries=5000000"),
        ("entries=-1", "'-1' is not a number"),
        ("entries=many", "'many' is not a number"),
    ],
)
def test_what_is_no_limit(ocifs: Ocifs, odd: Path, limit: str, says: str) -> None:
    result = ocifs.run("ls", "--limit", limit, odd)
    assert (result.code, result.out) == (2, b"")
    assert says in result.err


def test_a_label_that_is_left_out_is_odd(ocifs: Ocifs, tmp_path: Path, fuse: None) -> None:
    config: Json = {"config": {"Cmd": ["x"], "Labels": {"run.oci.hooks.stdout": "/x"}}}
    image = write_layout(tmp_path / "labelled", Image(config=config))
    complaint = ocifs.complaint(4, "bundle", "--rootfs", "copy", "--strict", image, str(ocifs.home / "new"))
    assert "run.oci.hooks.stdout" in complaint
    assert complaint.endswith("refused by --strict")
    allowed = ocifs.run("bundle", "--rootfs", "copy", image, str(ocifs.home / "new"))
    assert (allowed.code, allowed.err.count("ocifs: warning: ")) == (0, 1)
