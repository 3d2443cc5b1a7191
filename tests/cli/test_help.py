"""Help and usage errors, of every command, in this process."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

import ocifs as package
from ocifs.cli.command import environment, option_sections, summary
from ocifs.cli.habits import INSTEAD
from ocifs.cli.verbs import VERBS, cli, run
from ocifs.limits import DEFAULT_LIMITS, Limits

_ROOT = Path(__file__).parent.parent.parent
SHARED = "Registry, cache and limits"


class Output(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Output]


@pytest.fixture
def ocifs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line on a terminal of `columns`, with only the given variables of ocifs."""

    def run_here(line: str, columns: int = 80, **variables: str) -> Output:
        with monkeypatch.context() as patch:
            patch.setenv("COLUMNS", str(columns))
            for name in ("REGISTRY_AUTH_FILE", "OCIFS_ENGINE", "OCIFS_LIMITS"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            status = run(line.split(), None)
        return Output(status, *capsys.readouterr())

    return run_here


def contexts(above: click.Context | None = None) -> Iterator[click.Context]:
    """Yield a context for every command and subcommand."""
    context = above or click.Context(cli, info_name="ocifs", **cli.context_settings)
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from contexts(click.Context(command, info_name=name, parent=context))


ALL = list(contexts())
IDS = [context.command_path for context in ALL]


def test_without_arguments_ocifs_lists_the_commands_by_group(ocifs: Run) -> None:
    status, out, text = ocifs("")
    assert (status, out) == (2, "")
    assert ocifs("help").out == ocifs("--help").out == ocifs("-h").out == text
    headings = [line.rstrip(":") for line in text.splitlines() if line.endswith(":")]
    assert headings == [
        "Mount",
        "Look inside",
        "Compare and audit",
        "Run and export",
        "Maintain",
        "Options",
    ]
    for verbs in VERBS.values():
        for name, verb in verbs.items():
            assert f"  {name} " in text
            assert verb.summary in text
    for word in ("oci:DIR", "oci-archive:FILE", "docker-archive:FILE", "Exit status"):
        assert word in text


@pytest.mark.parametrize("context", ALL, ids=IDS)
def test_the_help_of_a_command(ocifs: Run, context: click.Context) -> None:
    """It is the same whichever way the user asks for it, and no line is longer than the terminal."""
    words = context.command_path.removeprefix("ocifs").strip()
    status, text, err = ocifs(f"{words} --help")
    assert (status, err) == (0, "")
    assert text.startswith(f"Usage: {context.command_path} ")
    assert ocifs(f"help {words}").out == text
    if "-h" in context.command.get_help_option_names(context):
        assert ocifs(f"{words} -h").out == text
    assert max(map(len, text.splitlines())) <= 80
    assert re.fullmatch(r"[A-Z].*\.", summary(context.command))
    for option in [each for options in option_sections(context.command, context).values() for each in options]:
        assert option.help
        assert option.help[0].isupper() or option.help.partition(":")[0].islower(), option.name
    if SHARED in text:
        assert text.index("\nOptions:") < text.index(f"\n{SHARED}:")
        assert "--cache-dir" not in text[: text.index(SHARED)]
        assert "OCIFS_CACHE_DIR" not in text, "the man page has the variables of shared options"


def test_the_help_of_mount_fits_a_small_terminal_and_uses_a_large_one(ocifs: Run) -> None:
    text = ocifs("help mount").out
    assert len(text.splitlines()) <= 40
    for line in text.splitlines():
        assert not line.startswith(" " * 20), "an option takes two lines"
    widths = [max(map(len, ocifs("help run", columns=columns).out.splitlines())) for columns in (80, 120, 300)]
    assert widths[0] <= 80 < widths[1] <= 100
    assert widths[1] == widths[2]


def test_a_help_names_the_variables_of_its_options(ocifs: Run) -> None:
    variables = {name for context in ALL for name in environment(context.command)}
    assert variables == {
        "OCIFS_CACHE_DIR",
        "OCIFS_ENGINE",
        "OCIFS_HOSTS_DIR",
        "OCIFS_FOLLOW_LINKS",
        "OCIFS_LIMITS",
        "OCIFS_MAX_CACHE_SIZE",
        "OCIFS_NO_SERVICE",
        "OCIFS_STRICT",
        "OCIFS_TOC",
        "REGISTRY_AUTH_FILE",
    }
    assert "\nEnvironment: OCIFS_CACHE_DIR\n" in ocifs("help cache ls").out
    section = (_ROOT / "docs/cli.md").read_text().partition("\n## Files and environment\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert {each for each in documented if each.startswith("OCIFS_")} - {"OCIFS_DEBUG"} | {
        "REGISTRY_AUTH_FILE"
    } == variables
    assert "REGISTRY_AUTH_FILE" in documented


def test_version(ocifs: Run) -> None:
    assert ocifs("-V") == ocifs("--version") == (0, f"ocifs {package.__version__}\n", "")


def test_the_former_name_of_blame_still_works_and_is_hidden(ocifs: Run) -> None:
    assert ocifs("which --help").out == ocifs("blame --help").out == ocifs("help which").out
    assert "\n  which " not in ocifs("help").out


def test_limit_help_lists_the_limits_without_an_image(ocifs: Run) -> None:
    for line in ("ls --limit help", "mount --limit help", "grep --limit=help", "inspect --limit help image"):
        status, text, err = ocifs(line)
        assert (status, err) == (0, "")
        assert [text.count(f"{DEFAULT_LIMITS.setting(name)} ") for name in Limits.__struct_fields__].count(0) == 0
    assert [*Limits.meanings()] == [*Limits.__struct_fields__]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("moutn a b", "no such command: moutn: did you mean mount or umount or mounts?"),
        ("lss", "no such command: lss: did you mean ls?"),
        ("xyzzy", "no such command: xyzzy"),
        ("manifest a", "no such command: manifest: use `ocifs inspect --raw IMAGE`"),
        ("unpack a b", "no such command: unpack: use `ocifs export IMAGE --to-dir DIR`"),
        ("cache pull", "no such command: pull"),
        ("cache purge", "no such command: purge: did you mean prune?"),
        ("help moun", "no such command: moun: did you mean mount or umount or mounts?"),
        ("--verison", "no such option: --verison: did you mean --version?"),
        ("ls --jsn x", "no such option: --jsn: did you mean --json?"),
        (
            "mount --no-prefech a b",
            "no such option: --no-prefech: did you mean --no-prefetch or --prefetch or --prefetch-rate?",
        ),
        ("ls --xyzzy x", "no such option: --xyzzy"),
        ("ls -Y x", "no such option: -Y"),
        ("ls", "missing argument IMAGE[:/PATH]"),
        ("mount", "missing argument IMAGE"),
        ("umount", "missing argument MOUNTPOINT..."),
        ("cache prune", "missing option --max-size"),
        ("history a b", "got unexpected extra argument (b)"),
        ("completion", "missing argument SHELL"),
    ],
)
def test_wrong_usage_is_shown_with_the_right_one(ocifs: Run, line: str, message: str) -> None:
    status, out, err = ocifs(line)
    first, usage = err.splitlines()
    assert (status, out, first) == (2, "", f"ocifs: {message}")
    assert usage.startswith("Usage: ocifs ")
    assert "(see `ocifs help" in usage


@pytest.mark.parametrize(
    ("line", "variables", "message"),
    [
        ("mount --engine x a b", {}, "--engine: 'x' is not one of 'auto', 'erofs', 'fuse'"),
        ("mount a b", {"OCIFS_ENGINE": "x"}, "OCIFS_ENGINE: 'x' is not one of 'auto', 'erofs', 'fuse'"),
        ("ls a", {"OCIFS_MAX_CACHE_SIZE": "5X"}, "OCIFS_MAX_CACHE_SIZE: '5X' is not a size; write 64MiB or 10GiB"),
        ("ls a", {"OCIFS_STRICT": "maybe"}, "OCIFS_STRICT: 'maybe' is not a valid boolean"),
        ("ls a", {"OCIFS_TOC": "x"}, "OCIFS_TOC: 'x' is not one of"),
        ("ls a", {"OCIFS_LIMITS": "entries=5 colour=1"}, "OCIFS_LIMITS: 'colour' is not a limit"),
        ("ls a", {"OCIFS_CACHE_DIR": "/etc/passwd"}, "OCIFS_CACHE_DIR: directory '/etc/passwd' is a file"),
        ("ls a", {"REGISTRY_AUTH_FILE": "/"}, "REGISTRY_AUTH_FILE: file '/' is a directory"),
        ("ls a", {"REGISTRY_AUTH_FILE": "/missing"}, "REGISTRY_AUTH_FILE: file '/missing' does not exist"),
        ("ls --authfile /missing a", {"REGISTRY_AUTH_FILE": "/"}, "--authfile: file '/missing' does not exist"),
        ("ls a", {"OCIFS_HOSTS_DIR": "/missing"}, "OCIFS_HOSTS_DIR: directory '/missing' does not exist"),
        ("ls a", {"OCIFS_HOSTS_DIR": "/etc/passwd"}, "OCIFS_HOSTS_DIR: directory '/etc/passwd' is a file"),
        ("ls a", {"OCIFS_FOLLOW_LINKS": "maybe"}, "OCIFS_FOLLOW_LINKS: 'maybe' is not a valid boolean"),
        ("mount a b", {"OCIFS_NO_SERVICE": "maybe"}, "OCIFS_NO_SERVICE: 'maybe' is not a valid boolean"),
        ("ls a", {"OCIFS_LIMITS": "help"}, "OCIFS_LIMITS: 'help' is not a limit"),
        ("ls --limit colour=1 a", {"OCIFS_LIMITS": "x"}, "--limit: 'colour' is not a limit; --limit help lists them"),
        ("ls --limit entries=many a", {}, "--limit: 'many' is not a number; write entries=5000000 or entries=64MiB"),
        ("ls --platform linux a", {}, "--platform: malformed platform 'linux'"),
        ("ls --max-cache-size -1 a", {}, "--max-cache-size: '-1' is not a size"),
        ("mount --span-cache 64MX a b", {}, "--span-cache: '64MX' is not a size"),
        ("mount --read-timeout 0 a b", {}, "--read-timeout: 0 is not in the range 1<=x<=86400"),
        ("mount --read-timeout nan a b", {}, "--read-timeout: 'nan' is not a valid integer"),
        ("cache prune --max-size many", {}, "--max-size: 'many' is not a size"),
        ("completion tcsh", {}, "SHELL: 'tcsh' is not one of"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_origin(
    ocifs: Run, line: str, variables: dict[str, str], message: str
) -> None:
    status, out, err = ocifs(line, **variables)
    assert (status, out) == (2, "")
    assert err.startswith(f"ocifs: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("help ls x", "ocifs ls has no command 'x'"),
        ("export image", "use exactly one of --to-dir, --to-tar and --to-erofs"),
        ("ls --layer 0 --only-layer 0 image", "--layer and --only-layer exclude each other"),
    ],
)
def test_what_a_command_itself_refuses_is_one_line(ocifs: Run, tmp_path: Path, line: str, message: str) -> None:
    assert ocifs(line, OCIFS_CACHE_DIR=str(tmp_path / "cache")) == (2, "", f"ocifs: {message}\n")


def test_no_command_is_refused_with_an_alternative() -> None:
    assert INSTEAD.keys().isdisjoint(name for verbs in VERBS.values() for name in verbs)
