"""What a word at the cursor can become, asked as bash asks it."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ocifs.cli.complete import answer as request
from ocifs.cli.complete.bash import insertions, split
from ocifs.cli.complete.candidates import MAX, answer
from ocifs.cli.complete.commands import COMMANDS
from ocifs.cli.complete.model import Completion
from ocifs.cli.complete.request import understand
from ocifs.cli.verbs import cli
from tests.cli.command import Ocifs
from tests.images import Image, Layer, layout_files, write_layout
from tests.registry import Registry
from tests.tars import base256, directory, file, header, tar

_BREAKS = " \t\n\"'><=;|&(:"


@pytest.fixture
def here(place: Path, session_ocifs: Ocifs, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_ocifs.home / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session_ocifs.runtime))
    return place


def _candidates(line: str) -> list[str] | str:
    """Return the candidates for the last word of a line, or where the name of a file begins in it."""
    words = split(line, _BREAKS).words
    found = answer(understand(words))
    return (
        [each.word for each in found.candidates]
        if found.files_from is None
        else f"files {words[-1][found.files_from :]}"
    )


_ROWS: list[tuple[str, list[str] | str]] = [
    # commands, options, choices
    ("ocifs ver", ["verify"]),
    ("ocifs cache p", ["prune"]),
    ("ocifs --vers", ["--version"]),
    ("ocifs ls --only-l", ["--only-layer"]),
    ("ocifs -x ls --only-l", ["--only-layer"]),
    ("ocifs cache clear -", ["--cache-dir", "--help"]),
    ("ocifs umount -l", ["-l"]),
    ("ocifs umount --la", ["--lazy"]),
    ("ocifs mount --engine ", ["auto", "erofs", "fuse"]),
    ("ocifs mount --engine=e", ["--engine=erofs"]),
    ("ocifs completion z", ["zsh"]),
    ("ocifs ls --platform linux/s", ["linux/s390x"]),
    ("ocifs ls --limit=zs", ["--limit=zstd-window="]),
    ("ocifs ls --span", []),
    ("ocifs mount --span-cache ", "files "),
    ("ocifs grep ", "files "),
    # files of this machine, also for what is unknown
    ("ocifs ls im", "files im"),
    ("ocifs ls ", "files "),
    ("ocifs ls oci:im", "files im"),
    ("ocifs ls oci-archive:./s", "files ./s"),
    ("ocifs ls no:such", "files no:such"),
    ("ocifs report -o pl", "files pl"),
    ("ocifs report image --output=pl", "files pl"),
    ("ocifs mount image ", "files "),
    ("ocifs mount --log ", "files "),
    ("ocifs cp image /etc/passwd pl", "files pl"),
    ("ocifs cp image:/etc/passwd pl", "files pl"),
    ("ocifs run image pl", "files pl"),
    ("ocifs nothing ", "files "),
    ("ocifs ls -- im", "files im"),
    ("ocifs find image -na", []),
    ("ocifs find image -type f /un", ["/unique/"]),
    # transports, if no file begins like that
    ("ocifs ls doc", ["docker-archive:", "docker://", "docker-daemon:"]),
    ("ocifs ls docker:", ["docker://"]),
    ("ocifs ls cont", ["containers-storage:"]),
    ("ocifs ls htt", ["https://", "http://"]),
    # tags
    ("ocifs ls image:", ["image:lab", "image:latest"]),
    ("ocifs ls ./image:lat", ["./image:latest"]),
    ("ocifs ls oci:image:lat", ["oci:image:latest"]),
    ("ocifs ls single.tar:", ["single.tar:v1"]),
    ("ocifs ls docker-archive:saved.tar:", [f"docker-archive:saved.tar:team/app:1.{number}" for number in (2, 3)]),
    (r"ocifs ls my\ image:", ["my image:latest"]),
    ("ocifs ls ~/himage:", ["~/himage:latest"]),
    ("ocifs diff image:latest image:lab", ["image:lab"]),
    ("ocifs diff image:none image:none", []),
    # paths in the image
    ("ocifs ls image:latest ", ["/etc/", "/hard/", "/many/", "/unique/"]),
    ("ocifs ls image un", ["unique/"]),
    ("ocifs ls image /unique", ["/unique/"]),
    ("ocifs ls image /unique/../un", ["/unique/../unique/"]),
    ("ocifs ls -l image:latest:/un", ["image:latest:/unique/"]),
    ("ocifs ls ~/himage:/un", ["~/himage:/unique/"]),
    ("ocifs cat image:/etc/", [f"image:/etc/{name}" for name in ("passwd", "ssl/", "tls/")]),
    ("ocifs cat image:/etc/.", ["image:/etc/.hidden"]),
    ("ocifs cat image /unique/one /etc/pa", ["/etc/passwd"]),
    ("ocifs cat image:/unique/one /etc/pa", ["/etc/passwd"]),
    ("ocifs cat image:/unique/one image:/etc/pa", ["image:/etc/passwd"]),
    ("ocifs grep -e image image:/etc/pa", ["image:/etc/passwd"]),
    ("ocifs run image /un", ["/unique/"]),
    ("ocifs export image /un", ["/unique/"]),
    ("ocifs ls image --layer 0 /un", ["/unique/"]),
    ("ocifs ls image:lab --layer=-2 /un", ["/unique/"]),
    ("ocifs ls image:lab /x", ["/x"]),
    ("ocifs cat image:/etc/passwd/", []),
    ("ocifs cat image:/hard/", [f"image:/hard/{name}" for name in (
        *("back`touch PWNED`tick", "bang!x", "café", "colon:x", "dollar$(touch PWNED)", 'dou"ble', "equals=x"),
        *("quo'te", "semi;colon", "with space"),
    )]),
    # layers
    ("ocifs ls image:lab --layer ", ["0", "1"]),
    ("ocifs ls image:lab --only-layer=", ["--only-layer=0", "--only-layer=1"]),
    ("ocifs ls --layer ", "files "),
    # what is not indexed, or not there
    ("ocifs ls cold /un", []),
    ("ocifs ls cold:latest:/un", []),
    ("ocifs ls image --layer 9 /un", []),
    ("ocifs ls image --layer x /un", []),
    ("ocifs ls nowhere:/et", []),
    ("ocifs ls docker://127.0.0.1:1/x:", []),
    ("ocifs ls docker://127.0.0.1:1/x:y:/etc", []),
]  # fmt: skip


def test_words_have_their_candidates(here: Path) -> None:
    before = sorted(path.name for path in here.parent.glob("cache/ocifs/entries/*"))
    wrong = [(line, found, want) for line, want in _ROWS if (found := _candidates(line)) != want]
    assert not wrong, "\n".join(map(str, wrong))
    assert sorted(path.name for path in here.parent.glob("cache/ocifs/entries/*")) == before


def test_layers_are_described_on_one_printable_line(here: Path) -> None:
    found = answer(understand(["ocifs", "ls", "image", "--layer", ""])).candidates
    assert found == [Completion("0", "COPY everything /[31m")]


def test_large_directories_are_cut_and_keep_their_common_beginning(here: Path) -> None:
    found = answer(understand(["ocifs", "cat", "image:/many/"])).candidates
    assert len(found) == MAX
    assert (found[0].word, found[-1].word) == ("image:/many/file00000", "image:/many/other")
    found = answer(understand(["ocifs", "cat", "image:/many/fi"])).candidates
    assert len(found) == MAX
    assert (found[0].word, found[-2].word) == ("image:/many/file00000", "image:/many/file00998")
    assert found[-1].word == "image:/many/file02999"
    assert len(_candidates("ocifs cat image:/many/file029")) == 100


def test_a_missing_cache_is_not_made(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert _candidates("ocifs ls image /un") == []
    assert _candidates("ocifs ls image:") == ["image:lab", "image:latest"]
    assert not (tmp_path / "none").exists()
    indexed = here.parent / "cache/ocifs"
    assert _candidates(f"ocifs ls --cache-dir {indexed} image /un") == ["/unique/"]
    monkeypatch.setenv("OCIFS_CACHE_DIR", str(indexed))
    assert _candidates("ocifs ls image /un") == ["/unique/"]


def test_a_failure_prints_nothing(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for arguments in ([], ["tcsh", "ocifs"], ["bash", ":"], ["zsh"]):
        assert request.main(arguments) == 1
    assert capfdbinary.readouterr() == (b"", b"")


@pytest.mark.parametrize(
    ("line", "words", "kept"),
    [
        ("ocifs ls img:lat", ["ocifs", "ls", "img:lat"], 4),
        ("ocifs ls ", ["ocifs", "ls", ""], 0),
        (r"ocifs a\ b\:c", ["ocifs", "a b:c"], 0),
        ("ocifs 'a b':c", ["ocifs", "a b:c"], 4),
        ("""ocifs "a 'b""", ["ocifs", "a 'b"], 0),
        (r"""ocifs "a\"b\n:""", ["ocifs", 'a"b\\n:'], 0),
        (r"""ocifs 'a\'b""", ["ocifs", "a\\b"], 2),
        ("ocifs --layer=1", ["ocifs", "--layer=1"], 8),
        ("A=1 B='x y' ocifs l", ["ocifs", "l"], 0),
        ("ocifs ls >out 2>&1 < in x", ["ocifs", "ls", "x"], 0),
        ("ocifs ls\\", ["ocifs", "ls"], 0),
    ],
)
def test_lines_are_split_like_those_of_bash(line: str, words: list[str], kept: int) -> None:
    found = split(line, _BREAKS)
    assert (found.words, found.kept) == (words, kept)


@pytest.mark.parametrize(
    ("line", "candidate", "text"),
    [
        ("x a", "a b$c`d`\\e'f\"g*h?[i]", r"""a\ b\$c\`d\`\\e\'f\"g\*h\?\[i\] """),
        ("x {", "{j}#k!l&m;n|o<p>q(r)s~", r"\{j\}\#k\!l\&m\;n\|o\<p\>q\(r\)s\~ "),
        ("x a:b", "a:b c", r"b\ c "),
        ("x ~/a", "~/a b", r"~/a\ b "),
        (r"x \~/a", "~/a b", r"\~/a\ b "),
        ('x "a', 'a"b$c`d\\e\'f', r"""a\"b\$c\`d\\e'f"""),
        ('x "a', "a!b", None),
        ("x 'a", 'a"b$c`d\\e!f', 'a"b$c`d\\e!f'),
        ("x 'a", "a'b", None),
        ("x c", "café", "café "),
    ],
)  # fmt: skip
def test_candidates_are_quoted_for_bash(line: str, candidate: str, text: str | None) -> None:
    assert insertions(split(line, _BREAKS), [Completion(candidate)]) == ([] if text is None else [text])


def test_a_directory_in_quotes_is_completed_with_its_files(
    here: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    request.main(["bash", _BREAKS, 'ocifs cat "image:/un'])
    assert capfdbinary.readouterr().out == b"words\nimage:/unique/one\n"


def test_mounts_are_completed(ocifs: Ocifs, fuse: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = write_layout(tmp_path / "image", Image(layers=(Layer(tar([file(b"x", b"")])),)))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(ocifs.runtime))
    with ocifs.mounted(layout) as mountpoint:
        assert str(mountpoint) in _candidates(f"ocifs umount {mountpoint.parent}/")
        assert f"{mountpoint}" in _candidates(f"ocifs umount --lazy {mountpoint}")
    assert ocifs.leftovers() == []
    assert _candidates(f"ocifs umount {mountpoint}") == f"files {mountpoint}"


def test_images_in_a_registry_are_completed_from_the_cache(
    ocifs: Ocifs, fuse: None, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("team/app", layout_files(Image(layers=(Layer(tar([directory(b"etc/"), file(b"etc/motd", b"")])),))))
    name = f"docker://{registry.host}/team/app:latest"
    monkeypatch.setenv("XDG_CACHE_HOME", str(ocifs.home / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(ocifs.runtime))
    with ocifs.mounted(name):
        asked = len(registry.sent)
        assert name in _candidates("ocifs ls docker://")
        assert _candidates(f"ocifs ls {name[:-3]}") == [name]
        assert _candidates(f"ocifs cat {name}:/etc/") == [f"{name}:/etc/motd"]
        assert _candidates(f"ocifs ls {name} --layer ") == ["0"]
        (digest,) = [each["digest"] for each in json.loads(ocifs.output("mounts", "--json")) if each["image"] == name]
        assert _candidates(f"ocifs cat docker://{registry.host}/team/app@{digest} /e") == ["/etc/"]
        assert len(registry.sent) == asked


def test_a_slow_answer_is_given_up(session_ocifs: Ocifs, tmp_path: Path) -> None:
    """Naming this layer takes the digest of 64 GiB, which are a hole."""
    config = b'{"rootfs": {"type": "layers", "diff_ids": ["sha256:%064d"]}}' % 0
    manifest = b'[{"Config": "config.json", "RepoTags": ["slow:1"], "Layers": ["layer.tar"]}]'
    size = 64 << 30
    archive = tmp_path / "slow.tar"
    with archive.open("wb") as out:
        out.write(file(b"config.json", config) + file(b"manifest.json", manifest))
        out.write(header(b"layer.tar", base256(size, 12)) + b"\x1f\x8b\x08\0")
        out.truncate(out.tell() - 4 + size + 1024)
    for line, want in ((f"ocifs ls {archive}:", b"words\nslow:1 \n"), (f"ocifs ls {archive}:slow:1:/", b"")):
        ran = subprocess.run(
            session_ocifs.command("__complete", "bash", _BREAKS, line),
            env=session_ocifs.variables(), capture_output=True, check=False,
        )  # fmt: skip
        assert (ran.returncode, ran.stdout, ran.stderr) == (0 if want else -signal.SIGALRM, want, b"")


def test_nothing_that_is_hidden_is_offered() -> None:
    options = {name for command in COMMANDS.values() for names, _, _ in command[1] for name in names}
    assert "--only-layer" in options
    assert "" not in options
    hidden = _hidden()
    for path, names in hidden:
        offered = {name for option_names, _, _ in COMMANDS[path][1] for name in option_names}
        assert not offered & set(names), path


def _hidden() -> Iterator[tuple[str, list[str]]]:
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for param in command.params:
            if isinstance(param, click.Option) and param.hidden:
                yield name, param.opts


def test_answers_import_neither_click_nor_commands(session_ocifs: Ocifs, place: Path) -> None:
    script = (
        "import sys; from ocifs.cli.complete.answer import main; main(sys.argv[1:])\n"
        "heavy = {'click', 'urllib3', 'rich', 'trio', 'pyfuse3', 'indexed_gzip', 'zstandard'}\n"
        "print(*sorted(set(sys.modules) & heavy))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('ocifs.cli')))\n"
    )
    line = f"ocifs cat {place}/image:latest:/unique/"
    ran = subprocess.run(
        [sys.executable, "-c", script, "bash", _BREAKS, line],
        env=session_ocifs.variables(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, candidate, heavy, modules = ran.stdout.splitlines()
    assert (first, candidate, heavy) == ("words", "/unique/one ", "")
    assert re.fullmatch(r"(ocifs\.cli(\.complete(\.\w+)?)? ?)+", modules)
