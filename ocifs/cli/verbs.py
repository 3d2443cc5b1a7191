"""The commands of `ocifs`: find the requested one, and turn every failure into one line and an exit status.

A command's module is imported only when it runs, so each command starts as fast as its own imports allow.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

import click

from ocifs.cli.command import Group
from ocifs.errors import OcifsError, missing_extra, printable_path, shortage
from ocifs.version import __version__

if TYPE_CHECKING:
    from ocifs.service.client import Mounter


class Verb(NamedTuple):
    """A command before its module is imported."""

    module: str
    """The module in ocifs.cli that has a command of this name."""
    summary: str


VERBS = {
    "Mount": {
        "mount": Verb("mount", "Mount an image."),
        "umount": Verb("mount", "Unmount."),
        "mounts": Verb("mount", "List mounts."),
        "store": Verb("store", "Let podman, buildah and CRI-O run images in place."),
        "service": Verb("service", "Keep mounts when their daemon dies; start mounts fast."),
        "snapshotter": Verb("snapshotter", "Serve images to containerd without unpacking them."),
    },
    "Look inside": {
        "ls": Verb("ls", "List a directory of an image."),
        "tree": Verb("tree", "Draw a directory of an image as a tree."),
        "find": Verb("search", "Find files."),
        "grep": Verb("grep", "Search the files of an image."),
        "cat": Verb("read", "Print files."),
        "head": Verb("head", "Print the beginning of files."),
        "tail": Verb("head", "Print the end of files."),
        "cp": Verb("read", "Copy files out of an image."),
        "stat": Verb("look", "Show all attributes of a file."),
        "du": Verb("du", "Show disk usage of directories."),
        "explore": Verb("explore", "Browse an image in the terminal."),
        "inspect": Verb("about", "Show the metadata of an image."),
        "tags": Verb("tags", "List the tags of a repository, a layout or an archive."),
        "history": Verb("about", "Show the build steps of an image."),
    },
    "Compare and audit": {
        "diff": Verb("compare", "Compare two images."),
        "blame": Verb("look", "Show which layers added, changed or removed a path."),
        "waste": Verb("audit", "Show bytes that later layers hide."),
        "verify": Verb("audit", "Read an image again and verify it."),
        "report": Verb("report", "Write an HTML report on an image."),
    },
    "Run and export": {
        "run": Verb("run", "Run a command in a container."),
        "bundle": Verb("bundle", "Make a bundle for runc or crun."),
        "export": Verb("export", "Write an image to a directory, a tar or a mountable file."),
    },
    "Maintain": {
        "index": Verb("index", "Index an image ahead of time."),
        "cache": Verb("cache", "Inspect or clean the cache."),
        "setup-mount": Verb("setup_mount", "Let mount(8) and fstab mount images."),
        "completion": Verb("completion", "Print a completion script for a shell."),
        "help": Verb("help", "Show the help of a command."),
    },
}
"""The commands as the help groups them."""

_ALL_VERBS = {name: verb for verbs in VERBS.values() for name, verb in verbs.items()}
_ALIASES = {"which": "blame"}
"""Former names of commands."""

INTERNAL_ERROR = 70
"""EX_SOFTWARE of sysexits.h: a defect of ocifs itself."""

INTERRUPTED = 130
"""As a shell has it of a command that SIGINT ended."""

_EPILOG = """\b
IMAGE is one of
  PATH[:TAG]  PATH@sha256:…            a layout directory or an archive
  oci:DIR[:TAG]                        an OCI image layout
  oci-archive:FILE[:TAG]               a layout in a tar file
  docker-archive:FILE[:NAME:TAG|:@N]   what `docker save` writes
  -                                    an archive from standard input
  https://HOST/FILE[:TAG]              an archive on a web server
  docker-daemon:NAME[:TAG]             an image of a Docker engine
  containers-storage:NAME[:TAG]        an image in podman's storage
  dir:DIR                              what `skopeo copy` writes to dir:DIR
  docker://HOST[:PORT]/REPO[:TAG|@…]   in a registry

\b
Exit status
  0 success   3 not found          6 limit exceeded
  1 failure   4 invalid image      7 cannot mount or unmount
  2 usage     5 not supported      8 cache unusable   9 registry refuses
  70 defect in ocifs                   10 index push: some images failed
  diff, grep, waste: 1 differences, no match, limit violated; 74 failure
"""


class _Verbs(Group):
    """Imports the module of a command on demand; the help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_ALL_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = _ALL_VERBS.get(cmd_name)
        if verb is None:
            return None
        command: click.Command = getattr(
            importlib.import_module(f"ocifs.cli.{verb.module}"), cmd_name.replace("-", "_")
        )
        command.short_help = verb.summary
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, [_ALIASES.get(args[0], args[0]), *args[1:]])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _ALL_VERBS))
        for heading, verbs in VERBS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), verb.summary) for name, verb in verbs.items()])


@click.command(
    cls=_Verbs,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def cli() -> None:
    """Mount and inspect OCI images without unpacking them.

    \b
    Try:  ocifs ls ./image:latest /etc
          ocifs mount ./image:latest /mnt
          ocifs help mount
    """


def run(arguments: list[str], mounter: "Mounter | None") -> int:
    """Run one command; return its exit status. No error reaches the user as a traceback.

    Commands that mount take `mounter`.
    """
    try:
        return invoke(arguments, mounter)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the boundary of the command line
        return failed(error)


def invoke(arguments: list[str], mounter: "Mounter | None") -> int:
    """Run one command; return its exit status. Raises what the command raises."""
    # Not cli.main, which handles broken pipes and interrupts differently.
    with cli.make_context("ocifs", arguments, obj=mounter) as context:
        result = cli.invoke(context)
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def failed(error: Exception | KeyboardInterrupt) -> int:
    """Print the error that has ended a command; return the exit status."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.UsageError():
            from ocifs.cli.usage import usage_lines

            click.echo("\n".join(usage_lines(error)), err=True)
            return error.exit_code
        case click.Abort() | KeyboardInterrupt():
            return _fail("interrupted", INTERRUPTED)
        case OcifsError():
            return _fail_by_ocifs(error)
        case BrokenPipeError():
            _drop_output()  # the reader has seen enough
            return 0
        case OSError():
            _drop_output()
            return _fail_by_system(error)
    return _fail_by_surprise(error)


def _fail_by_ocifs(error: OcifsError) -> int:
    if isinstance(error.__cause__, OSError):  # possibly of stdout
        _drop_output()
    return _fail(str(error), error.exit_code)


def _fail_by_surprise(error: Exception) -> int:
    if os.environ.get("OCIFS_DEBUG"):
        raise error
    if (known := missing_extra(error) or shortage(error)) is not None:
        return _fail(str(known), known.exit_code)
    return _fail(
        f"internal error: {type(error).__name__}: {error} (OCIFS_DEBUG=1 shows where; please report it)",
        INTERNAL_ERROR,
    )


def _fail_by_system(error: OSError) -> int:
    if (short := shortage(error)) is not None:
        return _fail(str(short), short.exit_code)
    name = f"{error.filename}: " if error.filename else ""
    return _fail(f"{name}{error.strerror}", OcifsError.exit_code)


def _drop_output() -> None:
    """Discard unwritten output at exit, instead of failing again."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # too many open files
        os.close(1)
        null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)


def _fail(message: str, exit_code: int) -> int:
    click.echo(f"ocifs: {printable_path(message)}", err=True)
    return exit_code
