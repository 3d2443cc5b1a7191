"""diff, grep, waste and verify as a user meets them."""

import gzip
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import Image, Layer, blob_path, digest, write_layout
from tests.tars import directory, file, symlink, tar

BASE = Layer(
    tar([
        directory(b"etc"),
        file(b"etc/motd", b"welcome\nto the base\n", mtime=1),
        file(b"etc/old", b"old"),
        symlink(b"motd", b"etc/motd"),
        file(b"program", b"\x7fELF\0base"),
    ])
)  # fmt: skip
UPPER = Layer(
    tar([
        file(b"etc/motd", b"welcome\nto the top\twith \x1b[31mred\n", mtime=1),
        file(b"etc/.wh.old"),
        file(b"etc/n\xff\n\x1b[2J", b"welcome"),
        file(b"program", b"\x7fELF\0tops"),
    ])
)  # fmt: skip


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "image", Image((BASE, UPPER)))


def test_diff_of_an_image_with_and_without_its_last_layer(ocifs: Ocifs, image: Path) -> None:
    result = ocifs.run("diff", f"{image}~1", image)
    assert (result.code, result.err) == (1, "")
    assert result.out.split(b"\n", 1)[1].replace(b"n\xff\n\x1b", b"n") == (
        b"added    /etc/n[2J\nremoved  /etc/old\nchanged  /program  (content)\n"
    )
    assert ocifs.run("diff", "-z", image, f"{image}~1").out.count(b"\0") == 4
    assert ocifs.run("diff", image, f"{image}~0") == (0, b"", "")
    assert ocifs.run("diff", "-q", image, f"{image}~0") == (0, b"", "")
    assert ocifs.run("diff", "--ignore", "size,content", f"{image}~1", image, "program") == (0, b"", "")


def test_diff_of_a_text(ocifs: Ocifs, image: Path) -> None:
    result = ocifs.run("diff", f"{image}~1", image, "/etc/motd")
    assert result == (
        1,
        b"changed  /etc/motd  (size 20 -> 33, content)\n--- a/etc/motd\n+++ b/etc/motd\n@@ -1,2 +1,2 @@\n welcome\n"
        b"-to the base\n+to the top\twith \x1b[31mred\n",
        "",
    )
    assert ocifs.run("diff", f"{image}~1", image, "motd").out.startswith(b"changed  motd  (size")
    added = ocifs.run("diff", f"{image}~2", f"{image}~1", "etc/old").out
    assert (
        added == b"added    etc/old\n--- /dev/null\n+++ b/etc/old\n@@ -0,0 +1 @@\n+old\n\\ No newline at end of file\n"
    )
    assert ocifs.run("diff", f"{image}~1", image, "program").out == b"changed  program  (content)\n"


def test_diff_of_what_is_too_large_for_lines(ocifs: Ocifs, tmp_path: Path) -> None:
    layers = (Layer(tar([file(b"log", b"a\n" * 600_000)])), Layer(tar([file(b"log", b"b\n")])))
    image = write_layout(tmp_path / "large", Image(layers))
    result = ocifs.run("diff", f"{image}~1", image, "log")
    assert (result.code, result.out.count(b"\n"), result.err) == (1, 2, "")
    assert result.out.endswith(b"Files of more than 1 MiB are not compared line by line\n")


def test_diff_added_up(ocifs: Ocifs, image: Path) -> None:
    text = ocifs.run("diff", "--stat", f"{image}~1", image).text
    assert [line.split()[-1] for line in text.splitlines()] == ["directory", "/", "/etc", "total"]
    lines = ocifs.run("diff", "--stat", "--json", f"{image}~1", image).text.splitlines()
    assert json.loads(lines[1]) == {
        "path": "/etc",
        "added": {"files": 1, "bytes": 7},
        "removed": {"files": 1, "bytes": -3},
        "changed": {"files": 1, "bytes": 13},
    }


def test_grep(ocifs: Ocifs, image: Path) -> None:
    assert (
        ocifs.output("grep", "-n", "base", image, "--layer", "0")
        == "/etc/motd:2:to the base\nBinary file /program matches\n"
    )
    assert ocifs.output("grep", "-F", "to the", image, "etc/motd").startswith("to the top")
    assert ocifs.output("grep", "-c", "welcome", image, "--include", "motd") == "/etc/motd:1\n"
    assert ocifs.output("grep", "-rl", "ELF", image) == "/program\n"
    assert ocifs.output("grep", "-a", "ELF", image, "program") == "\x7fELF\0tops\n"
    assert ocifs.run("grep", "nothing", image) == (1, b"", "")
    assert ocifs.run("grep", "-q", "welcome", image) == (0, b"", "")
    (line,) = ocifs.output("grep", "--json", "top", image, "etc/motd").splitlines()
    assert json.loads(line) == {"path": "etc/motd", "line_number": 2, "line": "to the top\twith \x1b[31mred"}


def test_a_terminal_gets_no_control_characters(ocifs: Ocifs, image: Path) -> None:
    for arguments in (
        ("grep", "to the top|welcome", image),
        ("diff", f"{image}~1", image, "etc/motd"),
        ("diff", f"{image}~1", image, "etc"),
    ):
        ours, theirs = pty.openpty()
        environment = ocifs.variables(NO_COLOR="1")
        subprocess.run(ocifs.command(*arguments), stdout=theirs, env=environment, check=False)
        os.close(theirs)
        shown = b""
        while True:
            try:
                more = os.read(ours, 1 << 16)
            except OSError:
                break
            shown += more
        os.close(ours)
        assert b"\x1b" not in shown
        assert b"\\x1b" in shown
        assert b"\t" in shown or b"(content" in shown or b"added" in shown


def test_waste(ocifs: Ocifs, image: Path) -> None:
    text = ocifs.output("waste", image)
    assert "replaced by 1  /etc/motd" in text
    assert "removed by 1  /etc/old" in text
    result = ocifs.run("waste", "--json", "--duplicates", "--fail-under", "0.9", image)
    assert result.code == 1
    assert result.err == "ocifs: the efficiency 0.4444 is below 0.9\n"
    told = json.loads(result.text)
    assert told["hidden"][0] == {"path": "/etc/motd", "size": 20, "layer": 0, "by": 1, "how": "replaced"}
    assert told["duplicates"] == []
    assert ocifs.run("waste", "--fail-under", "0.4", image).code == 0
    # The limits of dive do not see all that is hidden.
    gate = ocifs.run("waste", "--fail-under", "0.4", "--max-hidden-bytes", "22", image)
    assert (gate.code, gate.err) == (1, f"ocifs: {told['hidden_bytes']} hidden bytes are more than 22\n")
    assert ocifs.run("waste", "--max-hidden-bytes", str(told["hidden_bytes"]), image).code == 0


def test_verify(ocifs: Ocifs, image: Path) -> None:
    assert ocifs.output("verify", image).splitlines()[-1].startswith(f"{image}: all 7 checks passed, ")
    ocifs.output("index", image)
    path = image / blob_path(digest(UPPER.blob))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = ocifs.run("verify", image)
    assert (result.code, result.err) == (4, "")
    assert result.text.count("FAIL") == 2
    assert ocifs.run("verify", f"{image}~1").code == 0
    lines = ocifs.run("verify", "--json", image).text.splitlines()
    assert [json.loads(line)["what"] for line in lines if not json.loads(line)["ok"]] == ["blob", "layer"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["diff", "IMAGE", "missing"], 3, "no such file or directory: 'missing'"),
        (["diff", "IMAGE~3", "IMAGE"], 3, "IMAGE~3: the image has only 2 layers"),
        (["diff", "IMAGE", "IMAGE", "/etc/none"], 3, "its nearest parent is /etc"),
        (["grep", "x", "IMAGE", "none"], 3, "none: no such file or directory in the image"),
        (["waste", "IMAGE~9"], 3, "only 2 layers"),
        (["verify", "IMAGE:none"], 3, "no image 'none'"),
    ],
)
def test_what_is_not_there(ocifs: Ocifs, image: Path, arguments: list[str], code: int, message: str) -> None:
    complaint = ocifs.complaint(code, *(each.replace("IMAGE", str(image)) for each in arguments))
    assert message.replace("IMAGE", str(image)) in complaint


@pytest.mark.parametrize(
    "arguments",
    [
        ["grep", "(", "IMAGE"],
        ["diff", "IMAGE"],
        ["diff", "--ignore", "mtime,colour", "IMAGE", "IMAGE"],
        ["waste", "--fail-under", "95", "IMAGE"],
    ],
)
def test_wrong_usage(ocifs: Ocifs, image: Path, arguments: list[str]) -> None:
    result = ocifs.run(*(each.replace("IMAGE", str(image)) for each in arguments))
    assert (result.code, result.out) == (2, b"")
    assert result.err.startswith("ocifs: ")


def test_a_failure_is_no_answer(ocifs: Ocifs, image: Path) -> None:
    """What others end with 1 for has another exit status where 1 means something."""
    ocifs.output("index", image)
    blob = image / blob_path(digest(BASE.blob))
    good = blob.read_bytes()
    blob.write_bytes(gzip.compress(BASE.tar, 1, mtime=1)[: len(good)].ljust(len(good), b"\0"))
    assert "was changed or damaged" in ocifs.complaint(4, "grep", "base", f"{image}~1")
    assert ocifs.run("diff", f"{image}~1", image, "etc").code == 1  # no byte of the base has to be read
    blob.write_bytes(good)
    full = subprocess.run(
        ["sh", "-c", 'exec "$@" >/dev/full', "sh", *ocifs.command("diff", f"{image}~1", image)],
        env=ocifs.variables(), capture_output=True, check=False,
    )  # fmt: skip
    assert (full.returncode, full.stderr) == (74, b"ocifs: No space left on device\n")


def test_a_closed_pipe_ends_the_output(ocifs: Ocifs, image: Path) -> None:
    for arguments in (("grep", "", image), ("diff", f"{image}~1", image), ("waste", image), ("verify", image)):
        process = ocifs.start(*arguments)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait() in {0, 1}
