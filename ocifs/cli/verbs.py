"""The commands of `ocifs`: find the requested one, and turn every failure into one line and an exit status.

A command's module is imported only when it runs, so each command starts as fast as its own imports allow.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from ocifs.errors import OcifsError, printable_path, shortage
from ocifs.version import __version__

if TYPE_CHECKING:
    from ocifs.service.client import Mounter

_VERBS = {
    "mount": "ocifs.cli.mount",
    "umount": "ocifs.cli.mount",
    "mounts": "ocifs.cli.mount",
    "service": "ocifs.cli.service",
    "bundle": "ocifs.cli.bundle",
    "run": "ocifs.cli.run",
    "index": "ocifs.cli.index",
    "inspect": "ocifs.cli.about",
    "history": "ocifs.cli.about",
    "ls": "ocifs.cli.look",
    "tree": "ocifs.cli.look",
    "find": "ocifs.cli.search",
    "stat": "ocifs.cli.look",
    "which": "ocifs.cli.look",
    "du": "ocifs.cli.search",
    "cat": "ocifs.cli.read",
    "head": "ocifs.cli.read",
    "cp": "ocifs.cli.read",
    "grep": "ocifs.cli.grep",
    "diff": "ocifs.cli.compare",
    "waste": "ocifs.cli.audit",
    "verify": "ocifs.cli.audit",
    "export": "ocifs.cli.export",
    "explore": "ocifs.cli.explore",
    "report": "ocifs.cli.report",
    "cache": "ocifs.cli.cache",
    "completion": "ocifs.cli.completion",
}

INTERNAL_ERROR = 70
"""EX_SOFTWARE of sysexits.h: a defect of ocifs itself."""

INTERRUPTED = 130
"""As a shell has it of a command that SIGINT ended."""

_COMPLETE = "_OCIFS_COMPLETE"

_EPILOG = """\b
IMAGE is one of
  PATH[:TAG]  PATH@sha256:…            a layout directory or an archive
  oci:DIR[:TAG]                        an OCI image layout
  oci-archive:FILE[:TAG]               a layout in a tar file
  docker-archive:FILE[:NAME:TAG|:@N]   what `docker save` writes
  docker://HOST[:PORT]/REPO[:TAG|@…]   in a registry

\b
Exit status
  0 success   3 not found          6 limit exceeded
  1 failure   4 invalid image      7 cannot mount or unmount
  2 usage     5 not supported      8 cache unusable   9 registry refuses
  70 defect in ocifs
  diff, grep, waste: 1 differences, no match, limit violated; 74 failure
"""


class _Verbs(click.Group):
    """Imports the module of a command on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(_VERBS[cmd_name])
        command: click.Command = getattr(module, cmd_name)
        return command


@click.command(cls=_Verbs, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Mount and inspect OCI images without unpacking them.

    \b
    Try:  ocifs ls ./image:latest /etc
          ocifs mount ./image:latest /mnt
          ocifs umount /mnt
    """


def run(arguments: list[str], mounter: "Mounter | None") -> int:
    """Run one command; return its exit status. No error reaches the user as a traceback.

    Commands that mount take `mounter`.
    """
    try:
        if _COMPLETE in os.environ:
            cli.main(
                arguments, prog_name="ocifs", complete_var=_COMPLETE
            )  # answers the shell's completion request, and exits
        # Not cli.main, which handles broken pipes and interrupts differently.
        with cli.make_context("ocifs", arguments, obj=mounter) as context:
            result = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except OcifsError as error:
        return _fail_by_ocifs(error)
    except BrokenPipeError:
        _drop_output()  # the reader has seen enough
        return 0
    except OSError as error:
        _drop_output()
        return _fail_by_system(error)
    except Exception as error:
        if os.environ.get("OCIFS_DEBUG"):
            raise
        return _fail_by_surprise(error)
    return result if isinstance(result, int) else 0


def _fail_by_ocifs(error: OcifsError) -> int:
    if isinstance(error.__cause__, OSError):  # possibly of stdout
        _drop_output()
    return _fail(str(error), error.exit_code)


def _fail_by_surprise(error: Exception) -> int:
    if (short := shortage(error)) is not None:
        return _fail(str(short), short.exit_code)
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
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _fail(message: str, exit_code: int) -> int:
    click.echo(f"ocifs: {printable_path(message)}", err=True)
    return exit_code
