"""`ls`, `cat`, `stat` and `index`: looking into an image without a mount."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import Ocifs
from tests.images import (
    Image,
    Layer,
    add_image,
    add_index,
    index_of,
    layout_files,
    to_json,
    write_archive,
    write_directory,
    write_docker_archive,
    write_layout,
    write_oci_archive,
)
from tests.tars import file, tar

BIG = bytes(range(256)) * 4096


def test_ls_lists_a_directory_by_name(ocifs: Ocifs, demo: Path) -> None:
    assert ocifs.output("ls", demo, "/etc") == "absolute\nagain\nlink\nrelease\n"
    assert ocifs.output("ls", demo, "etc/") == ocifs.output("ls", f"{demo}:latest", "/etc")


def test_ls_writes_names_as_they_are(ocifs: Ocifs, demo: Path) -> None:
    names = ocifs.run("ls", demo).out
    assert names == b"big\ncaf\xe9\netc\nfile\nnull\ntwo\nlines\x1b[31m\n"


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["-A"], [".hidden", "absolute", "again", "link", "release"]),
        (["-d"], ["/etc"]),
        (["-R"], ["/etc:", "absolute", "again", "link", "release"]),
    ],
)
def test_ls_options(ocifs: Ocifs, demo: Path, options: list[str], lines: list[str]) -> None:
    assert ocifs.output("ls", *options, demo, "/etc").splitlines() == lines


def test_ls_long_is_like_ls_of_the_system(ocifs: Ocifs, demo: Path) -> None:
    lines = ocifs.output("ls", "-l", demo, "/etc", TZ="UTC").splitlines()
    assert lines[2] == "lrwxrwxrwx 1 0 0  7 1970-01-01 00:00 link -> release"
    assert lines[3] == "-rw-r--r-- 2 0 0 10 2001-09-09 01:46 release"
    assert re.fullmatch(
        r"crw-rw-rw- 1 0 0 1, 3 .* null", ocifs.output("ls", "-l", demo, "/null").rstrip()[:-5] + " null"
    )


def test_ls_json_is_an_object_for_each_line(ocifs: Ocifs, demo: Path) -> None:
    entries = [json.loads(line) for line in ocifs.output("ls", "--json", "-R", demo).splitlines()]
    named = {entry["path"]: entry for entry in entries}
    assert named["etc/release"] == {
        "path": "etc/release",
        "type": "regular",
        "mode": "0644",
        "inode": named["etc/again"]["inode"],
        "nlink": 2,
        "uid": 0,
        "gid": 0,
        "size": 10,
        "mtime_ns": 10**18,
        "layer": 0,
    }
    assert named["etc/link"]["target"] == "release"
    assert named["null"]["rdev"] == [1, 3]
    assert named["caf\\xe9"]["path_base64"] == "Y2Fm6Q=="
    assert "etc/.hidden" in named


def test_cat_writes_files_one_after_the_other(ocifs: Ocifs, demo: Path) -> None:
    assert ocifs.run("cat", demo, "/etc/link", "big", "etc/absolute") == (0, b"name=demo\n" + BIG + b"name=demo\n", "")
    assert ocifs.run("cat", demo, b"caf\xe9".decode(errors="surrogateescape")).out == b"latin"


def test_stat_tells_all_there_is(ocifs: Ocifs, demo: Path) -> None:
    told = ocifs.output("stat", demo, "/big")
    assert "Size: 1048576" in told
    assert "(0755/-rwxr-xr-x)" in told
    assert "user.note = 0x6e6f746564" in told
    assert re.search(r"Layer: 0 sha256:[0-9a-f]{64}, tar bytes \d+\+1048576", told)


def test_stat_follows_when_told_to(ocifs: Ocifs, demo: Path) -> None:
    assert json.loads(ocifs.output("stat", "--json", demo, "/etc/link"))["type"] == "symlink"
    followed = json.loads(ocifs.output("stat", "--json", "-L", demo, "/etc/link"))
    assert (followed["type"], followed["xattrs"], len(followed["extents"])) == ("regular", [], 1)


def test_index_reports_what_it_made(ocifs: Ocifs, demo: Path) -> None:
    report = json.loads(ocifs.output("index", "--json", demo))
    assert [layer["media_type"].rpartition("+")[2] for layer in report["layers"]] == ["gzip", "zstd"]
    assert [layer["entries"] for layer in report["layers"]] == [11, 1]
    text = ocifs.output("index", demo)
    assert report["digest"] in text
    assert text.count("\n") == 4


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("prefixed", [True, False])
def test_archives_are_read_in_place(ocifs: Ocifs, tmp_path: Path, kind: str, prefixed: bool) -> None:
    path = tmp_path / "image.tar"
    image = Image(layers=(Layer(compression="tar"),))
    if kind == "oci-archive":
        write_oci_archive(path, image)
    else:
        write_docker_archive(path, (image, ["demo:latest"]))
    reference = f"{kind}:{path}" if prefixed else str(path)
    assert ocifs.run("cat", reference, "file").out == b"content"
    assert ocifs.output("ls", f"{reference}:latest") == "file\n"


def test_platform_chooses_among_several(ocifs: Ocifs, tmp_path: Path) -> None:
    files = layout_files()
    images = [
        add_image(
            files,
            Image(
                (Layer(tar([file(b"architecture", name.encode())])),),
                tag=None,
                platform={"os": "linux", "architecture": name},
            ),
        )
        for name in ("s390x", "riscv64")
    ]
    files["index.json"] = to_json(index_of([add_index(files, images, "latest")]))
    image = write_directory(tmp_path / "many", files)
    for name in ("s390x", "riscv64"):
        assert ocifs.output("cat", "--platform", f"linux/{name}", image, "architecture") == name
    complaint = ocifs.complaint(3, "ls", "--platform", "linux/mips", image)
    assert re.search(r"from linux/s390x \(sha256:[0-9a-f]{64}\), linux/riscv64 \(sha256:[0-9a-f]{64}\)$", complaint)
    assert write_archive(tmp_path / "many.tar", files).exists()
    assert ocifs.output("cat", "--platform", "linux/s390x", tmp_path / "many.tar", "architecture") == "s390x"


@pytest.mark.parametrize("command", [["ls", "-R"], ["ls", "--json", "-R"]])
def test_a_reader_that_has_seen_enough_is_no_error(ocifs: Ocifs, tmp_path: Path, command: list[str]) -> None:
    many = [file(b"%05d" % number) for number in range(20_000)]
    image = write_layout(tmp_path / "many", Image(layers=(Layer(tar(many)),)))
    with ocifs.start(*command, image) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() != b""
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("command", ["ls", "cat", "mounts", "--help"])
def test_output_that_cannot_be_written_is_one_line(ocifs: Ocifs, demo: Path, redirection: str, command: str) -> None:
    arguments = {"ls": (demo,), "cat": (demo, "big")}.get(command, ())
    ran = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *ocifs.command(command, *arguments)],
        env=ocifs.variables(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran
    assert ran.stderr.startswith("ocifs: "), ran
    assert ran.stderr.count("\n") == 1, ran


@pytest.mark.parametrize(
    "command", [["ls"], ["cat", "f"], ["index"], ["verify"], ["inspect"], ["history"]], ids=" ".join
)
def test_links_out_of_a_layout_are_followed_if_the_user_says_so(
    ocifs: Ocifs, tmp_path: Path, command: list[str]
) -> None:
    """As in what Bazel builds: each blob is a symlink into the output of another target."""
    image = write_layout(tmp_path / "image", Image((Layer(tar([file(b"f", b"content")])),)))
    (image / "blobs").rename(tmp_path / "elsewhere")
    for path in list((tmp_path / "elsewhere/sha256").iterdir()):
        link = image / "blobs/sha256" / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    verb, *path_in_image = command
    assert "--follow-links" in ocifs.run(verb, image, *path_in_image).text + ocifs.run(verb, image, *path_in_image).err
    assert ocifs.output(verb, "--follow-links", image, *path_in_image)
    assert ocifs.run(verb, image, *path_in_image, OCIFS_FOLLOW_LINKS="1").code == 0
