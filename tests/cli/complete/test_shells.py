"""Completion in real shells, as it is typed."""

import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import ocifs.cli.complete
from tests.cli.command import Ocifs
from tests.cli.complete.shells import SCRIPTS, SHELLS, Shell, started

_PACKAGE = Path(ocifs.cli.complete.__file__).parent
_ROOT = _PACKAGE.parents[2]
_INSTALLED = {
    "bash": "share/bash-completion/completions/ocifs",
    "zsh": "share/zsh/site-functions/_ocifs",
    "fish": "share/fish/vendor_completions.d/ocifs.fish",
}
"""Where these shells look below `/usr` and `/usr/local`."""

_LINES = [
    ("ocifs mount --engine=er", "ocifs mount --engine=erofs "),
    ("ocifs ls ./im", "ocifs ls ./image/"),
    ("ocifs ls oci:im", "ocifs ls oci:image/"),
    ("ocifs report --output=pl", "ocifs report --output=plain.txt "),
    ("ocifs report -o two", r"ocifs report -o two\ words.txt "),
    (r"ocifs report -o \$mo", r"ocifs report -o \$money.txt "),
    ("ocifs ls ~/him", "ocifs ls ~/himage/"),
    ("ocifs cp image:/etc/passwd pl", "ocifs cp image:/etc/passwd plain.txt "),
    ("ocifs ls image:", "ocifs ls image:la"),
    ("ocifs ls ~/himage:", "ocifs ls ~/himage:latest "),
    (r"ocifs ls my\ image:", r"ocifs ls my\ image:latest "),
    ("ocifs ls image un", "ocifs ls image unique/"),
    ("ocifs cat image:latest:/unique/", "ocifs cat image:latest:/unique/one "),
    ("ocifs cat image:/many/fi", "ocifs cat image:/many/file0"),
    ("ocifs cat image:/hard/doll", r"ocifs cat image:/hard/dollar\$\(touch\ PWNED\) "),
    ("ocifs cat image:/hard/bac", r"ocifs cat image:/hard/back\`touch\ PWNED\`tick "),
    ("ocifs ls cold:latest:/un", "ocifs ls cold:latest:/un"),
    ("ocifs ls image:latest --layer ", "ocifs ls image:latest --layer 0 "),
    ("ocifs grep pl", "ocifs grep plain.txt "),
    ("ocifs head -n pl", "ocifs head -n plain.txt "),
]

_IN_QUOTES = [
    ('ocifs ls "my image:', 'ocifs ls "my image:latest"'),
    ('ocifs cat "image:/hard/wi', 'ocifs cat "image:/hard/with space"'),
    ('ocifs cat "image:/hard/dollar\\$', 'ocifs cat "image:/hard/dollar\\$(touch PWNED)"'),
]


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest, session_ocifs: Ocifs, place: Path) -> Iterator[Shell]:
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"{name} is missing")
    variables = session_ocifs.variables(HOME=str(place / "home"), LC_ALL="C.UTF-8")
    variables["PATH"] = f"{place / 'bin'}:{variables['PATH']}"
    with started(name, _PACKAGE / SCRIPTS[name], variables, place) as shell:
        shell.name = name
        yield shell


def test_lines_are_completed(shell: Shell, place: Path) -> None:
    unquoted = {"fish": "`"}.get(shell.name, "")  # what this shell has no need to quote
    lines = [(typed, want.replace(f"\\{unquoted}", unquoted) if unquoted else want) for typed, want in _LINES]
    wrong = [(typed, line, want) for typed, want in lines if (line := shell.complete(typed)[0]) != want]
    assert not wrong, "\n".join(map(str, wrong))
    assert not (place / "PWNED").exists()


def test_quoted_words_are_completed(shell: Shell) -> None:
    wrong = [(t, line, want) for t, want in _IN_QUOTES if (line := shell.complete(t)[0]).rstrip() != want]
    assert not wrong, "\n".join(map(str, wrong))


def test_candidates_are_listed(shell: Shell) -> None:
    _, shown = shell.complete("ocifs ")
    assert {"bundle", "cache", "completion"} <= set(shown.split())
    _, shown = shell.complete("ocifs ls image:la")
    assert {"lab", "latest"} <= {word.rpartition(":")[2] for word in shown.split()}
    _, shown = shell.complete("ocifs ls image:lab --layer ")
    assert {"0", "1"} <= set(shown.split())
    _, shown = shell.complete("ocifs ls image:/hard/")
    assert "colon:x" in shown.replace("\\", "")
    assert not {"lines", "red", "latin"} & {word.rpartition("/")[2] for word in shown.split()}
    assert "\x1b[31mx" not in shown


def test_mountpoints_are_completed(shell: Shell, session_ocifs: Ocifs, place: Path, fuse: None) -> None:
    mountpoint = place / "mounted"
    mountpoint.mkdir(exist_ok=True)
    with session_ocifs.mounted(f"{place}/image:latest", "--engine", "fuse", at=mountpoint):
        assert shell.complete(f"ocifs umount {place}/m")[0] == f"ocifs umount {mountpoint} "


def test_a_failure_shows_nothing(shell: Shell, place: Path) -> None:
    (place / "broken").mkdir(exist_ok=True)
    (place / "broken/oci-layout").write_text("{")
    for typed in ("ocifs ls broken:", "ocifs ls plain.txt:/e", "ocifs ls broken --layer "):
        line, shown = shell.complete(typed)
        assert line == typed
        assert not {"Traceback", "Error", "ocifs:"} & set(shown.split())
    line, shown = shell.complete("./ocifs report -o pl")  # there is no such command
    assert line == "./ocifs report -o plain.txt "
    assert not {"found", "Unknown", "such"} & set(shown.split())


def test_names_of_files_may_have_colons(shell: Shell) -> None:
    for typed in ("ocifs report -o a", "ocifs report -o a:"):
        line, shown = shell.complete(typed)
        assert line.replace("\\", "") == "ocifs report -o a:b.txt " or (shell.name == "fish" and "a:b.txt" in shown)


def test_bash_may_split_words_elsewhere(shell: Shell) -> None:
    if shell.name != "bash":
        pytest.skip("only bash splits words at COMP_WORDBREAKS")
    shell.run("COMP_WORDBREAKS=${COMP_WORDBREAKS//[:=]}")
    for typed, want in [
        ("ocifs ls image:lat", "ocifs ls image:latest "),
        ("ocifs ls oci:im", "ocifs ls oci:image/"),
        ("ocifs ls ~/himage:l", "ocifs ls ~/himage:latest "),
        ("LC_ALL=C ocifs ls 2>/dev/null image:lat", "LC_ALL=C ocifs ls 2>/dev/null image:latest "),
    ]:
        assert shell.complete(typed)[0] == want


@pytest.mark.parametrize("name", SHELLS)
def test_the_command_prints_the_script_that_packages_install(name: str, session_ocifs: Ocifs) -> None:
    script = _PACKAGE / SCRIPTS[name]
    assert session_ocifs.output("completion", name) == script.read_text()
    with (_ROOT / "pyproject.toml").open("rb") as file:
        installed = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert installed[str(script.relative_to(_ROOT))] == _INSTALLED[name]
    if shutil.which(name):
        subprocess.run([name, "-n", script], check=True)
