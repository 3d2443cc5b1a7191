"""Whether a command can be executed: looked up in the tree image as execvp(3) and execve(2) would."""

import os
from pathlib import Path

import msgspec
import pytest

from ocifs.bundle.command import CommandNotFoundError, Execution, NotExecutableError, check_command
from ocifs.bundle.container_files import MountedSource
from ocifs.image.opening import open_image
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, header, symlink, tar

_AMD64, _ARM64 = 62, 183
_DEFAULT = Execution(
    command="",
    path="/bin:/usr/bin:/srv/local",
    cwd="/srv",
    uid=0,
    gids=(0,),
    mounts={"/proc": MountedSource(), "/data": MountedSource()},
)


def elf(machine: int = _AMD64, interpreter: bytes = b"") -> bytes:
    """Return the head of a 64-bit, little-endian executable with at most one program header (elf(5))."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + machine.to_bytes(2, "little") + bytes(4)
    header += bytes(8) + (64).to_bytes(8, "little") + bytes(8) + bytes(4) + (64).to_bytes(2, "little")
    header += (56).to_bytes(2, "little") + (1 if interpreter else 0).to_bytes(2, "little") + bytes(6)
    program = (3).to_bytes(4, "little") + bytes(4) + (120).to_bytes(8, "little") + bytes(16)
    program += (len(interpreter) + 1).to_bytes(8, "little") + bytes(16)
    return header + (program + interpreter + b"\0" if interpreter else b"")


_MEMBERS = [
    directory(b"srv"),
    directory(b"data"),
    file(b"lib/ld.so", elf(), mode=0o755),
    file(b"bin/static", elf(), mode=0o755),
    file(b"bin/dynamic", elf(interpreter=b"/lib/ld.so"), mode=0o755),
    file(b"bin/no-loader", elf(interpreter=b"/lib/none.so"), mode=0o755),
    file(b"bin/foreign", elf(_ARM64), mode=0o755),
    file(b"bin/script", b"#!/bin/static -x\n", mode=0o755),
    file(b"bin/spaced", b"#! \t/bin/static sh\n", mode=0o755),
    file(b"bin/nested", b"#!/bin/script\n", mode=0o755),
    file(b"bin/relative", b"#!local\n", mode=0o755),
    file(b"bin/bad-script", b"#!/bin/none\n", mode=0o755),
    file(b"bin/closed-script", b"#!/bin/plain\n", mode=0o755),
    file(b"bin/mounted-script", b"#!/data/sh\n", mode=0o755),
    file(b"bin/text", b"hello\n", mode=0o755),
    file(b"bin/empty", b"", mode=0o755),
    file(b"bin/truncated", b"\x7fELF\x02", mode=0o755),
    file(b"bin/plain", elf(), mode=0o644),
    file(b"bin/owners", elf(), mode=0o500, uid=33),
    file(b"bin/groups", elf(), mode=0o510, gid=4),
    directory(b"bin/directory"),
    header(b"bin/fifo", flag=b"6", mode=0o755),
    file(b"usr/bin/plain", elf(), mode=0o755),
    file(b"srv/local", elf(), mode=0o755),
    symlink(b"bin/link", b"static"),
    symlink(b"bin/absolute", b"/srv/local"),
    symlink(b"bin/up", b"../../../../srv/local"),
    symlink(b"bin/dangling", b"none"),
    symlink(b"bin/loop", b"loop"),
    symlink(b"bin/mounted", b"/data/program"),
    directory(b"root", mode=0o700),
    file(b"root/program", elf(), mode=0o755),
]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("commands") / "image", Image((Layer(tar(_MEMBERS)),)))


def check(layout: Path, command: str, **changes: object) -> None:
    execution = msgspec.structs.replace(_DEFAULT, command=command, **changes)
    with open_image(layout) as image:
        check_command(execution, image.rootfs, "x86_64")


@pytest.mark.parametrize(
    "command",
    [
        *("static", "dynamic", "script", "spaced", "nested", "relative", "link", "absolute", "up"),
        *("/bin/static", "./local", "../bin/static", "/bin/../bin//static"),
        "plain",  # the search goes on after a file that cannot be executed
        *("groups", "/data/whatever", "mounted", "mounted-script", "/proc/self/exe"),
    ],
)
def test_what_can_be_executed_or_is_for_the_kernel_to_decide(layout: Path, command: str) -> None:
    check(layout, command)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("none", "command none is in no directory of the container's PATH"),
        ("local", "in no directory"),  # the current directory is not searched
        ("not-a-directory", "in no directory"),
        ("dangling", "in no directory"),
        ("/bin/none", "command /bin/none does not exist"),
        ("./none", "does not exist"),
        ("/bin/dangling", "does not exist"),
        ("bad-script", "its interpreter /bin/none does not exist"),
        ("no-loader", "its interpreter /lib/none.so does not exist"),
    ],
)
def test_what_is_not_there_is_127(layout: Path, command: str, complaint: str) -> None:
    with pytest.raises(CommandNotFoundError, match=complaint) as raised:
        check(layout, command)
    assert raised.value.exit_code == 127


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("/bin/plain", "its mode is 0644"),
        ("/srv", "it is a directory"),
        ("directory", "it is a directory"),
        ("/", "it is a directory"),
        ("fifo", "not a regular file"),
        ("/bin/static/x", "not a directory"),
        ("/bin/loop", "Too many levels of symbolic links"),
        ("text", "neither a program nor a script"),
        ("empty", "neither a program nor a script"),
        ("foreign", "another machine"),
        ("truncated", "another machine"),
        ("closed-script", "its mode is 0644"),
    ],
)
def test_what_cannot_be_executed_is_126(layout: Path, command: str, complaint: str) -> None:
    with pytest.raises(NotExecutableError, match=complaint) as raised:
        check(layout, command)
    assert raised.value.exit_code == 126


def test_the_user_decides(layout: Path) -> None:
    check(layout, "owners", uid=33, gids=(33,))
    check(layout, "groups", uid=34, gids=(34, 4))
    for command, uid in (("owners", 34), ("groups", 34), ("/root/program", 33)):
        with pytest.raises(NotExecutableError):
            check(layout, command, uid=uid, gids=(uid,))
    check(layout, "/root/program")


def test_an_empty_part_of_the_path_is_the_current_directory(layout: Path) -> None:
    check(layout, "local", path="/bin:")
    check(layout, "static", path="/none:/bin")
    with pytest.raises(CommandNotFoundError):
        check(layout, "static", path="/none")


def test_a_long_path_is_searched(layout: Path) -> None:
    path = ":".join(f"/none{number}" for number in range(1000))
    check(layout, "static", path=f"{path}:/bin")
    with pytest.raises(CommandNotFoundError, match="in no directory"):
        check(layout, "static", path=path)


def test_a_search_that_an_image_makes_too_long_is_refused(layout: Path) -> None:
    path = ":".join("/bin/" + "../bin/" * number for number in range(1, 400))
    with pytest.raises(NotExecutableError, match="too many lookups: name its path"):
        check(layout, "none", path=path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory of the host, to be mounted on /src."""
    made = tmp_path / "source"
    made.mkdir()
    for name, content, mode in [
        ("build", "#!/bin/static\n", 0o755),
        ("unfinished", "#!/bin/static\n", 0o644),
        ("nowhere", "#!/src/none\n", 0o755),
        ("text", "hello\n", 0o755),
        ("own", "#!/src/build\n", 0o755),
        ("closed", "#!/bin/static\n", 0o700),
    ]:
        (made / name).write_text(content)
        (made / name).chmod(mode)
    for name, target in [
        ("link", "build"),
        ("absolute", "/bin/static"),
        ("host", str(made / "build")),
        ("up", "../bin"),
    ]:
        (made / name).symlink_to(target)
    return made


@pytest.mark.parametrize(
    "command",
    ["/src/build", "/src/own", "/src/link", "/src/absolute", "/src/up/static", "static", "/src/../bin/static"],
)
def test_a_bind_is_looked_up_on_the_host(layout: Path, source: Path, command: str) -> None:
    check(layout, command, mounts={"/src": MountedSource(host=str(source))}, path="/src:/src/up")


@pytest.mark.parametrize(
    ("command", "error", "complaint"),
    [
        ("/src/none", CommandNotFoundError, "does not exist in the container"),
        ("/src/build/x", NotExecutableError, "not a directory"),
        ("/src/unfinished", NotExecutableError, "its mode is 0644"),
        ("/src/nowhere", CommandNotFoundError, "its interpreter /src/none does not exist"),
        ("/src/text", NotExecutableError, "neither a program nor a script"),
        ("/src/up", NotExecutableError, "it is a directory"),
        ("/src/host", CommandNotFoundError, "does not exist"),  # a symlink stays in the container
        ("none", CommandNotFoundError, "in no directory"),
        ("/data/x", CommandNotFoundError, "does not exist"),
        ("/made/x", CommandNotFoundError, "does not exist"),  # the runtime makes the directory /made
        ("/made/on/the/way", NotExecutableError, "the option noexec"),
        ("/file", NotExecutableError, "its mode is 0644"),
    ],
)
def test_what_a_bind_cannot_do(
    layout: Path, source: Path, command: str, error: type[Exception], complaint: str
) -> None:
    mounts = {
        "/src": MountedSource(host=str(source)),
        "/data": MountedSource(empty=True),
        "/made/on/the/way": MountedSource(host=str(source / "build"), executable=False),
        "/file": MountedSource(host=str(source / "unfinished")),
    }
    with pytest.raises(error, match=complaint):
        check(layout, command, mounts=mounts, path="/src")


def test_the_host_has_the_owners_of_its_files(layout: Path, source: Path) -> None:
    owner = os.geteuid()
    mounts = {"/src": MountedSource(host=str(source))}
    check(layout, "/src/closed", mounts=mounts, uid=owner, gids=(owner,))
    with pytest.raises(NotExecutableError, match="its mode is 0700"):
        check(layout, "/src/closed", mounts=mounts, uid=owner + 1, gids=(owner + 1,))
    check(layout, "/src/closed", mounts=mounts, rootless=True)  # whose root is this user


def test_another_image_is_looked_up_too(layout: Path) -> None:
    mounts = {"/other": MountedSource(image="images/0")}
    execution = msgspec.structs.replace(_DEFAULT, command="/other/bin/dynamic", mounts=mounts)
    with open_image(layout) as image:
        check_command(execution, image.rootfs, "x86_64", {"images/0": image.rootfs})
        with pytest.raises(CommandNotFoundError):
            check_command(
                msgspec.structs.replace(execution, command="/other/bin/none"),
                image.rootfs,
                "x86_64",
                {"images/0": image.rootfs},
            )
