"""`find`, `du`, `tree`, `ls` and `stat` of an image say what those of the system say of its mount."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Ocifs


@pytest.fixture(scope="module")
def image(debian: Path) -> str:
    return f"{debian}:latest"


@pytest.fixture(scope="module")
def mounted(session_ocifs: Ocifs, image: str, root: None) -> Iterator[Path]:
    with session_ocifs.mounted(image) as mountpoint:
        yield mountpoint


def of_the_system(mountpoint: Path, *command: str) -> list[bytes]:
    ran = subprocess.run(
        command, cwd=mountpoint, capture_output=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, check=True
    )
    return ran.stdout.splitlines()


def of_ocifs(ocifs: Ocifs, *arguments: str) -> list[bytes]:
    result = ocifs.run(*arguments)
    assert (result.code, result.err) == (0, "")
    return result.out.splitlines()


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "-name *.so*",
        "-iname README*",
        "-path */python3*/*.py",
        r"-regex .*/lib[a-z]*\.so",
        "-type l",
        "-type f,d -name [A-C]*",
        "-type f -size +1M",
        "-size -3k",
        "-size 17",
        "-perm /6000",
        "-perm -4755",
        "-perm 644 -name *.conf",
        "-perm -u=rwx,go=rx -type d",
        "-links +1 -type f",
        "-empty",
        "-uid 1000",
        "-user root -group shadow",
        "-gid +40",
        "-newer etc/issue",
        "-newermt 2026-01-01 -type f -name *.list",
        "-mtime +100 -name *.h",
        "-mtime -100000 -name *.h",
        "-mmin +100000 -maxdepth 3",
        "-maxdepth 2 -type d",
        "-mindepth 7",
        "-name usr -prune -o -print",
        "( -name *.c -o -name *.h ) ! -path *boost* -size +40k",
    ],
)
def test_find(image: str, mounted: Path, session_ocifs: Ocifs, expression: str) -> None:
    words = expression.split()
    ours = of_ocifs(session_ocifs, "find", image, ".", *words)
    theirs = of_the_system(mounted, "find", ".", *words)
    assert sorted(ours) == sorted(theirs)
    assert theirs != []


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ([], "."),
        (["-b"], "usr"),
        (["-s"], "etc/passwd"),
        (["-d", "2"], "usr/share"),
        (["-h", "-d", "1"], "."),
        (["-a", "-b"], "etc"),
        (["-c", "-m", "--apparent-size"], "usr/lib"),
    ],
)
def test_du(session_ocifs: Ocifs, image: str, mounted: Path, options: list[str], path: str) -> None:
    ours = of_ocifs(session_ocifs, "du", *options, image, path)
    assert sorted(ours) == sorted(of_the_system(mounted, "du", *options, path))


@pytest.mark.parametrize(
    ("options", "path"),
    [
        (["-L", "2"], "usr"),
        (["-d"], "usr/include"),
        (["-a"], "etc"),
        (["-s"], "usr/lib/python3"),
        (["-d", "-L", "3", "-a", "-s"], "var/lib"),
        (["-a", "-F", "-p", "-f"], "etc"),
        (["-P", "*.py|*.so", "-I", "test*"], "usr/lib/python3"),
    ],
)
def test_tree(session_ocifs: Ocifs, image: str, mounted: Path, options: list[str], path: str) -> None:
    if shutil.which("tree") is None:
        pytest.skip("missing: tree")
    theirs = of_the_system(mounted, "tree", *options, path)
    ours = of_ocifs(session_ocifs, "tree", *options, image, path)
    assert ours == [line.replace("\xa0".encode(), b" ") for line in theirs]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        (["-RAF"], "."),
        (["-Rr"], "etc"),
        (["-RaX"], "var"),
        (["-tA"], "etc"),
        (["-S"], "usr/bin"),
        (["-i"], "usr/bin"),
    ],
)
def test_ls(session_ocifs: Ocifs, image: str, mounted: Path, options: list[str], path: str) -> None:
    assert of_ocifs(session_ocifs, "ls", *options, image, path) == of_the_system(mounted, "ls", *options, path)


def test_stat(session_ocifs: Ocifs, image: str, mounted: Path) -> None:
    names = sorted(path.name for path in (mounted / "etc").iterdir() if path.name[0] != ".")
    form = "%n %N %a %A %b %B %f %F %g %h %i %s %t %T %u %X %Y %Z"
    theirs = of_the_system(mounted, "stat", "-c", form, *(f"etc/{name}" for name in names))
    assert of_ocifs(session_ocifs, "stat", "-c", form, image, "etc/*") == theirs
