"""Options of a command line, as the one value that the command receives."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from msgspec.structs import asdict, replace

from ocifs.cli.command import Command, command
from ocifs.cli.mount_options import mount_options, serving_options
from ocifs.cli.options import document_options, image_options
from ocifs.cli.view import View, view_options
from ocifs.limits import DEFAULT_LIMITS
from ocifs.mount.options import MountOptions
from ocifs.options import Options
from ocifs.spec.platform import Platform
from ocifs.store import DEFAULT_MAX_SIZE


@pytest.fixture
def runner(tmp_path: Path) -> CliRunner:
    return CliRunner(
        env={"XDG_CACHE_HOME": str(tmp_path / "cache"), "REGISTRY_AUTH_FILE": None, "OCIFS_CACHE_DIR": None}
    )


def received(runner: CliRunner, wrapped: Command, line: str, **variables: str) -> Any:
    result = runner.invoke(wrapped, line.split(), env=variables, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.return_value


@command()
@image_options
def image_command(options: Options) -> Options:
    return options


@command()
@mount_options
def mount_command(mounting: MountOptions) -> MountOptions:
    return mounting


@command()
@view_options
def view_command(view: View) -> View:
    return view


def test_without_options_the_values_are_the_defaults_of_the_library(runner: CliRunner, tmp_path: Path) -> None:
    options = received(runner, image_command, "")
    assert options.store.directory == tmp_path / "cache/ocifs"
    assert options.store.max_size == DEFAULT_MAX_SIZE
    access = replace(Options().access, warn=options.access.warn)
    own = {"store": options.store, "warn": options.warn, "access": access}
    assert asdict(options) == asdict(Options()) | own
    assert received(runner, mount_command, "") == MountOptions()


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--strict", "strict", True),
        ("--follow-links", "follow_links", True),
        ("--toc find", "toc", "find"),
        ("--trust-index", "trust_index", True),
        ("--no-trust-index", "trust_index", False),
        ("--platform linux/arm64", "platform", Platform.parse("linux/arm64")),
        ("--limit layers=7 --limit xattrs=1KiB", "limits.layers", 7),
        ("--limit layers=7 --limit xattrs=1KiB", "limits.xattrs", 1024),
        ("--limit layers=7", "limits.entries", DEFAULT_LIMITS.entries),
        ("--max-cache-size 1GiB", "store.max_size", 1 << 30),
        ("--creds me:secret", "access.credentials", "me:secret"),
        ("--authfile /etc/passwd", "access.authfile", Path("/etc/passwd")),
        ("--cert-dir certs", "access.cert_dir", Path("certs")),
        ("--tls-verify false", "access.tls_verify", False),
        ("--allow-foreign-urls", "access.allow_foreign_urls", True),
    ],
)
def test_an_option_of_an_image(runner: CliRunner, line: str, field: str, value: object) -> None:
    found = received(runner, image_command, line)
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--engine fuse", "engine", "fuse"),
        ("--span-cache 1MiB", "span_cache", 1 << 20),
        ("--read-timeout 5", "read_timeout", 5),
        ("--log mount.log", "log", str(Path("mount.log").absolute())),
        ("--no-prefetch", "prefetch", False),
        ("--prefetch-rate 1M", "prefetch_rate", 1 << 20),
        ("--hot-pack 1M", "hot_pack", 1 << 20),
        ("--replace", "replace", True),
        ("--allow-other", "allow_other", True),
        ("--suid", "suid", True),
        ("--dev", "dev", True),
    ],
)
def test_an_option_of_a_mount(runner: CliRunner, line: str, field: str, value: object) -> None:
    assert received(runner, mount_command, line) == replace(MountOptions(), **{field: value})


def test_variables_set_defaults(runner: CliRunner, tmp_path: Path) -> None:
    options = received(
        runner,
        image_command,
        "--limit layers=8",
        OCIFS_CACHE_DIR=str(tmp_path / "other"),
        OCIFS_STRICT="1",
        OCIFS_LIMITS="layers=7",
    )
    assert (options.store.directory, options.strict, options.limits.layers) == (tmp_path / "other", True, 8)
    assert received(runner, mount_command, "", OCIFS_ENGINE="fuse").engine == "fuse"


@pytest.mark.parametrize(
    ("line", "layer", "changes_only"), [("", None, False), ("--layer -2", -2, False), ("--only-layer 0", 0, True)]
)
def test_a_view_of_layers(runner: CliRunner, line: str, layer: int | None, changes_only: bool) -> None:
    view = received(runner, view_command, f"{line} image:/etc")
    assert (view.image, view.path) == ("image", "/etc")
    assert (view.options.layer, view.options.changes_only) == (layer, changes_only)


def test_a_view_of_one_layer_and_of_all_up_to_it_exclude_each_other(runner: CliRunner) -> None:
    with pytest.raises(click.UsageError, match="exclude each other"):
        received(runner, view_command, "--layer 0 --only-layer 0 image")


def test_a_cache_that_cannot_be_used_is_one_warning(runner: CliRunner) -> None:
    result = runner.invoke(image_command, ["--cache-dir", "/dev/null"])
    assert result.stderr.count("ocifs: warning: cache directory /dev/null: ") == 1


def test_which_commands_have_which_options() -> None:
    names = []
    for add in (document_options, image_options, serving_options, mount_options):
        names.append({each.name for each in command()(add(lambda: None)).params})
    document, image, serving, mount = names
    assert image - document == {"strict"}
    assert mount - serving == {"replace", "allow_other", "suid", "dev", "exec", "survive"}
    assert mount == set(MountOptions.__struct_fields__)
