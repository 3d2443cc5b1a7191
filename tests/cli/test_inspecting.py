"""`inspect`, `history`, `tree`, `find`, `du`, `blame`, `head`, `cp` and `--layer`, as a user runs them."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Argument, Ocifs
from tests.cli.test_terminal import on_a_terminal
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, header, pax, symlink, tar

LAYERS = (
    Layer(
        tar(
            [
                directory(b"etc", mtime=1_000_000_000),
                file(b"etc/passwd", b"root:x:0:0::/:\napp:x:7:7::/:\n"),
                file(b"etc/issue", b"one\ntwo\nthree\n", mtime=1_000_000_000),
                file(b"etc/long", b"".join(b"%d\n" % n for n in range(30))),
                symlink(b"etc/link", b"issue"),
                file(b"opt/tool", bytes(5000), mode=0o4755, uid=7, gid=7, mtime=1_000_000_000),
                file(b"opt/odd\n\x1b[31m\xff", b"odd"),
                header(b"pipe", flag=b"6"),
            ]
        )
    ),
    Layer(tar([file(b"etc/issue", b"new\n"), file(b"opt/.wh.tool"), file(b"added", b"added\n")]), "zstd"),
)
SPARSE = pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"sparse",
              b"GNU.sparse.realsize": b"1048580"})  # fmt: skip


@pytest.fixture
def layered(tmp_path: Path) -> Path:
    return write_layout(
        tmp_path / "layered", Image(LAYERS, config={"history": [{"created_by": "ADD it"}, {"created_by": "RUN more"}]})
    )


def lines(ocifs: Ocifs, *arguments: Argument) -> list[str]:
    return ocifs.output(*arguments).splitlines()


def objects(ocifs: Ocifs, *arguments: Argument) -> list[dict[str, object]]:
    return [json.loads(line) for line in ocifs.output(*arguments).splitlines()]


def test_inspect_and_history_index_nothing(ocifs: Ocifs, layered: Path) -> None:
    told = ocifs.output("inspect", layered)
    assert told.count("not indexed yet") == 2
    assert lines(ocifs, "history", layered)[1].endswith("ADD it")
    assert [(step["layer"], step["created_by"]) for step in objects(ocifs, "history", "--json", layered)] == [
        (0, "ADD it"),
        (1, "RUN more"),
    ]
    assert list((ocifs.cache / "entries").iterdir()) == []
    ocifs.output("index", layered)
    image = json.loads(ocifs.output("inspect", "--json", layered))
    assert [(layer["number"], layer["indexed"], layer["whiteouts"]) for layer in image["layers"]] == [
        (0, True, 0),
        (1, True, 1),
    ]
    assert image["merged"]


def test_inspect_prints_documents_as_they_are(ocifs: Ocifs, layered: Path) -> None:
    image = json.loads(ocifs.output("inspect", "--json", layered))
    manifest = ocifs.run("inspect", "--raw", layered).out
    assert manifest == (layered / "blobs/sha256" / image["digest"][7:]).read_bytes()
    config = (layered / "blobs/sha256" / image["config_digest"][7:]).read_bytes()
    assert ocifs.run("inspect", "--raw", "--config", layered).out == config
    assert json.loads(ocifs.output("inspect", "--config", layered)) == json.loads(config)


def test_inspect_all(ocifs: Ocifs, layered: Path) -> None:
    assert [line.split()[:2] for line in lines(ocifs, "inspect", "--all", layered)] == [
        ["NAME", "PLATFORM"],
        ["latest", "linux/amd64"],
    ]
    (offer,) = objects(ocifs, "inspect", "--all", "--json", layered)
    assert (offer["names"], offer["layers"], offer["error"]) == (["latest"], 2, None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["/etc/issue", "/added"]),
        (["--layer", "1"], ["/etc/issue", "/added"]),
        (["--layer", "-1"], ["/etc/issue", "/added"]),
        (["--layer", "0"], ["/etc/issue", "/opt/tool"]),
        (["--only-layer", "1"], ["/etc/issue", "/opt/.wh.tool", "/added"]),
        (["--only-layer", "0"], ["/etc/issue", "/opt/tool"]),
    ],
)
def test_layers(ocifs: Ocifs, layered: Path, options: list[str], expected: list[str]) -> None:
    interesting = {"/etc/issue", "/opt/tool", "/opt/.wh.tool", "/added"}
    assert set(lines(ocifs, "find", *options, layered)) & interesting == set(expected)
    content = ocifs.output("cat", *options, layered, "/etc/issue")
    assert content == ("one\ntwo\nthree\n" if options[-1:] == ["0"] else "new\n")
    listed = {each["path"]: each for each in objects(ocifs, "ls", "-R", "--json", *options, layered)}
    assert ("added" in listed) == ("/added" in expected)
    if "/opt/.wh.tool" in expected:
        assert (listed["opt/tool"]["type"], listed["opt/tool"]["layer"]) == ("whiteout", 1)


def test_blame_tells_the_history(ocifs: Ocifs, layered: Path) -> None:
    assert [line.split()[3] for line in lines(ocifs, "blame", layered, "/etc/issue")] == ["added", "changed"]
    assert lines(ocifs, "blame", layered, "opt/tool")[1].endswith("removed  by the whiteout /opt/.wh.tool")
    assert lines(ocifs, "blame", layered, "added", "pipe")[0] == "added:"
    assert [each["change"] for each in objects(ocifs, "blame", "--json", layered, "/opt/tool")] == ["added", "removed"]
    assert len(lines(ocifs, "blame", "--layer", "0", layered, "/etc/issue")) == 1


def test_stat_of_several_files_names_their_layers(ocifs: Ocifs, layered: Path) -> None:
    told = lines(ocifs, "stat", layered, "/etc/issue", "/etc", "/etc/link")
    assert [line.split()[1] for line in told if line.startswith(" Layer:")] == ["1", "0", "0"]


def test_tree(ocifs: Ocifs, layered: Path) -> None:
    assert lines(ocifs, "tree", layered, "/etc") == [
        "/etc",
        "├── issue",
        "├── link -> issue",
        "├── long",
        "└── passwd",
        "",
        "1 directory, 4 files",
    ]
    assert [each["depth"] for each in objects(ocifs, "tree", "--json", "-L", "1", layered)] == [0, 1, 1, 1, 1]


def test_find_of_every_action(ocifs: Ocifs, layered: Path) -> None:
    assert ocifs.run("find", layered, "/opt", "-name", "odd*").out == b"/opt/odd\n\x1b[31m\xff\n"
    assert ocifs.run("find", layered, "/opt", "-name", "odd*", "-print0").out == b"/opt/odd\n\x1b[31m\xff\0"
    (line,) = lines(ocifs, "find", "--layer", "0", layered, "-user", "app", "-ls")
    assert line.split()[2:6] == ["-rwsr-xr-x", "1", "7", "7"]
    assert [each["path"] for each in objects(ocifs, "find", "--json", layered, "-type", "p")] == ["/pipe"]
    assert lines(ocifs, "find", layered, "(", "-name", "issue", "-o", "-name", "long", ")", "!", "-size", "1") == []
    assert lines(ocifs, "find", layered, "/etc", "/opt", "-maxdepth", "0") == ["/etc", "/opt"]


def test_du(ocifs: Ocifs, layered: Path) -> None:
    sizes = {line.split("\t")[1]: line.split("\t")[0] for line in lines(ocifs, "du", "-b", "--layer", "0", layered)}
    assert set(sizes) == {"/", "/etc", "/opt"}
    assert int(sizes["/opt"]) > 5003
    assert lines(ocifs, "du", "-s", layered, "/added") == ["1\t/added"]
    assert lines(ocifs, "du", "-sh", layered, "/added") == ["512\t/added"]
    (etc, _), (again, layer) = (
        (line.split("\t")[2], line.split("\t")[1]) for line in lines(ocifs, "du", "-s", "--layers", layered, "/etc")
    )
    assert (etc, again, layer) == ("/etc", "/etc", "1")
    assert ocifs.run("du", "-z", "-s", layered, "/added").out == b"1\t/added\0"
    (usage,) = objects(ocifs, "du", "--json", "-s", layered, "/etc")
    assert [part["layer"] for part in usage["layers"]] == [0, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "path", "expected"),
    [
        ([], "etc/long", "".join(f"{n}\n" for n in range(10))),
        (["-n", "2"], "etc/long", "0\n1\n"),
        (["-n", "0"], "etc/long", ""),
        (["-n", "99"], "etc/issue", "new\n"),
        (["-c", "3"], "etc/long", "0\n1"),
        (["-c", "1k"], "etc/issue", "new\n"),
        (["-c", "0"], "etc/issue", ""),
    ],
)
def test_head(ocifs: Ocifs, layered: Path, options: list[str], path: str, expected: str) -> None:
    assert ocifs.output("head", *options, layered, path) == expected


def test_head_of_several_files(ocifs: Ocifs, layered: Path) -> None:
    assert (
        ocifs.output("head", "-n1", layered, "added", "etc/issue") == "==> added <==\nadded\n\n==> etc/issue <==\nnew\n"
    )
    assert ocifs.output("head", "-qn1", layered, "added", "etc/issue") == "added\nnew\n"


def test_cp_into_a_file_and_a_directory(ocifs: Ocifs, layered: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert ocifs.output("cp", layered, "/etc/link", target) == ""
    assert target.read_bytes() == b"new\n"
    target.write_bytes(b"old")
    ocifs.output("cp", "--layer", "0", layered, "/opt/tool", target)
    assert target.stat().st_size == 5000
    assert not target.stat().st_mode & stat.S_ISUID
    (tmp_path / "into").mkdir()
    ocifs.output("cp", layered, "/etc/issue", "added", tmp_path / "into")
    assert sorted(path.name for path in (tmp_path / "into").iterdir()) == ["added", "issue"]


def test_cp_preserves_when_told_to(ocifs: Ocifs, layered: Path, tmp_path: Path) -> None:
    ocifs.output("cp", "-p", "--layer", "0", layered, "/opt/tool", tmp_path / "tool")
    status = (tmp_path / "tool").stat()
    assert status.st_mtime == 1_000_000_000
    if os.geteuid() == 0:
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (7, 0o4755)


def test_cp_of_a_directory(ocifs: Ocifs, layered: Path, tmp_path: Path) -> None:
    base = ["cp", "--layer", "0"]
    ocifs.output(*base, "-r", layered, "/opt", tmp_path / "new")
    ocifs.output(*base, "-R", layered, "/opt/", tmp_path)
    for copied in (tmp_path / "new", tmp_path / "opt"):
        tool = (copied / "tool").stat()
        assert (tool.st_size, tool.st_uid, tool.st_mode & stat.S_ISUID) == (5000, os.geteuid(), 0)
        assert tool.st_mtime > 1_000_000_000
    ocifs.output(*base, "-rp", layered, "/opt", tmp_path / "preserved")
    assert (tmp_path / "preserved/tool").stat().st_mtime == 1_000_000_000


def test_cp_of_a_directory_takes_what_the_umask_does(ocifs: Ocifs, tmp_path: Path) -> None:
    members = [directory(b"d", mode=0o1777), file(b"d/f", mode=0o6777), symlink(b"d/l", b"/absolute")]
    image = write_layout(tmp_path / "image", Image((Layer(tar(members)),)))
    command = ocifs.command("cp", "-r", image, "d", tmp_path / "out")
    subprocess.run(command, env=ocifs.variables(), umask=0o027, check=True)
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in (tmp_path / "out", tmp_path / "out/f")}
    assert modes == {"out": 0o750, "f": 0o750}
    assert os.readlink(tmp_path / "out/l") == "/absolute"


def test_cp_of_everything_fills_an_empty_directory(ocifs: Ocifs, layered: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    ocifs.run("cp", "-r", layered, "/", tmp_path / "out")
    assert (tmp_path / "out/etc/issue").read_bytes() == b"new\n"


def test_cp_leaves_holes(ocifs: Ocifs, tmp_path: Path) -> None:
    stored = b"1\n1048576\n4\n".ljust(512, b"\0") + b"end\n"
    image = write_layout(tmp_path / "image", Image((Layer(tar([SPARSE + file(b"sparse", stored)])),)))
    ocifs.output("cp", image, "sparse", tmp_path / "sparse")
    assert (tmp_path / "sparse").read_bytes() == bytes(1 << 20) + b"end\n"
    assert (tmp_path / "sparse").stat().st_blocks < 100
    assert ocifs.output("cp", image, "sparse", "/dev/null") == ""
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_cp_through_a_symlink_and_into_a_pipe(ocifs: Ocifs, layered: Path, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    ocifs.output("cp", layered, "added", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"added\n"
    assert ocifs.output("cp", layered, "added", "/dev/stdout") == "added\n"


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["cat", "IMAGE", "/etc/nothing/here"], 3, "in the image: its nearest parent is /etc"),
        (["ls", "IMAGE", "nothing"], 3, "its nearest parent is /"),
        (["cat", "IMAGE", "/etc"], 3, "/etc: is a directory"),
        (["head", "IMAGE", "/etc"], 3, "/etc: is a directory"),
        (["cp", "IMAGE", "/etc", "out"], 5, "/etc: is a directory: give -r"),
        (["cp", "-r", "IMAGE", "/etc", "/proc"], 1, "/proc/etc: "),
        (["cp", "-r", "IMAGE", "/", "/"], 1, "/ is the root directory of this machine"),
        (["cp", "-r", "IMAGE", "/etc/issue/", "out"], 3, "Not a directory"),
        (["cp", "IMAGE", "/pipe", "out"], 5, "/pipe: not a regular file"),
        (["cp", "IMAGE", "/etc/issue", "absent/out"], 1, "cannot copy /etc/issue to absent/out: No such file"),
        (["cp", "IMAGE", "/opt/odd\n\x1b[31m\udcff", "absent/"], 1, "absent/: no such directory"),
        (["ls", "--layer", "2", "IMAGE"], 3, "no layer 2 among the 2 layers"),
        (["ls", "--only-layer", "-3", "IMAGE"], 3, "they are 0 to 1"),
        (["blame", "IMAGE", "/never"], 3, "/never: no layer of the image has it"),
        (["blame", "IMAGE", "never"], 3, "never: no layer of the image has /never"),
        (["blame", "IMAGE", "\x1b"], 3, r"\x1b"),
        (["find", "IMAGE", "-user", "nobody"], 3, "no user 'nobody'"),
        (["find", "IMAGE", "/never"], 3, "/never"),
        (["tree", "IMAGE", "/etc/issue/x"], 3, "Not a directory"),
        (["inspect", "IMAGE:none"], 3, "choose one of :latest"),
        (["history", "nowhere"], 3, "no such file"),
    ],
)  # fmt: skip
def test_bad_input(ocifs: Ocifs, layered: Path, command: list[str], code: int, says: str) -> None:
    complaint = ocifs.complaint(code, *(word.replace("IMAGE", str(layered)) for word in command))
    assert says in complaint
    assert complaint.isprintable()


@pytest.mark.parametrize(
    "command",
    [
        ["find", "IMAGE", "-foo"],
        ["find", "IMAGE", "-name"],
        ["find", "IMAGE", "-exec", "ls", ";"],
        ["find", "IMAGE", "--json"],
        ["ls", "--layer", "x", "IMAGE"],
        ["ls", "--layer", "0", "--only-layer", "0", "IMAGE"],
        ["blame", "--only-layer", "0", "IMAGE", "/etc"],
        ["du", "-s", "-d", "2", "IMAGE"],
        ["tree", "-L", "0", "IMAGE"],
        ["head", "-n", "x", "IMAGE", "x"],
        ["inspect", "--all", "--raw", "IMAGE"],
        ["cp", "IMAGE", "etc/issue"],
        ["cp", "IMAGE", "etc/issue", "added", "nowhere"],
        ["ls", "--color", "maybe", "IMAGE"],
    ],
    ids=" ".join,
)
def test_wrong_usage(ocifs: Ocifs, layered: Path, command: list[str]) -> None:
    result = ocifs.run(*(str(layered) if word == "IMAGE" else word for word in command))
    assert (result.code, result.out) == (2, b"")
    assert result.err.startswith("ocifs: ")


@pytest.mark.parametrize("command", [["find"], ["tree"], ["du", "-a"], ["ls", "-lR"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_error(ocifs: Ocifs, tmp_path: Path, command: list[str]) -> None:
    image = write_layout(tmp_path / "many", Image((Layer(tar([file(b"many/%05d" % n) for n in range(20_000)])),)))
    ran = subprocess.run(
        ["sh", "-c", '"$@" | head -n 1 >/dev/null', "sh", *ocifs.command(*command, image)],
        env=ocifs.variables(),
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_names_end_with_nul_where_lines_do_not_do(ocifs: Ocifs, layered: Path) -> None:
    assert ocifs.run("ls", "-z", layered, "/opt").out == b"odd\n\x1b[31m\xff\0"


def test_a_terminal_gets_colours_and_no_control_characters(
    ocifs: Ocifs, layered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ocifs.output("index", layered)
    monkeypatch.setenv("LS_COLORS", "di=1;35")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert on_a_terminal(ocifs, "ls", "-1", layered).splitlines()[1:] == [
        "\x1b[1;35metc\x1b[0m",
        "\x1b[1;35mopt\x1b[0m",
        "\x1b[33mpipe\x1b[0m",
    ]
    assert "\x1b[1;35metc" in on_a_terminal(ocifs, "tree", layered)
    for options in (["--color", "never"], []):
        shown = on_a_terminal(ocifs, "ls", *options, layered)
        assert ("\x1b" in shown) == (options == [])
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b" not in on_a_terminal(ocifs, "ls", layered)
        assert "\x1b[1;35m" in on_a_terminal(ocifs, "ls", "--color", "always", layered)
        monkeypatch.delenv("NO_COLOR")
    assert "\x1b" not in ocifs.output("ls", layered)
    assert "\x1b[1;35m" in ocifs.output("ls", "--color=always", layered)
    for command in (["find"], ["du", "-a"], ["tree", "--color=never"], ["find"], ["blame"], ["history"], ["inspect"]):
        paths = ["opt/odd\n\x1b[31m\udcff"] if command == ["blame"] else []
        assert "\x1b" not in on_a_terminal(ocifs, *command, layered, *paths)
    assert r"odd\n\x1b[31m\xff" in on_a_terminal(ocifs, "find", layered)


def test_a_full_disk_leaves_nothing_behind(ocifs: Ocifs, tmp_path: Path, root: None) -> None:
    image = write_layout(tmp_path / "image", Image((Layer(tar([file(b"big", bytes(range(256)) * 8192)])),)))
    script = 'mount -t tmpfs -o size=1M tmpfs "$1" && shift && "$@"; code=$?; ls -A "$0"; exit $code'
    disk = tmp_path / "disk"
    disk.mkdir()
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(disk), str(disk), *ocifs.command("cp", image, "big", disk)],
        env=ocifs.variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"ocifs: cannot copy big to {disk}/big: No space left on device\n"
