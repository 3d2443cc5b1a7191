"""`ocifs cat` and `cp`: read files of an image, decoding only the spans that hold them."""

import os
import shutil
import sys
from pathlib import Path

import click

from ocifs.cli.command import command
from ocifs.cli.options import warn
from ocifs.cli.output import shown_name, write_bytes
from ocifs.cli.signals import ended_by_signals
from ocifs.cli.unsupported import each_unsupported, unsupported
from ocifs.cli.view import View, view_options
from ocifs.errors import printable_path

_CHUNK = 1 << 20


@command()
@view_options
@click.option("-u", "unbuffered", is_flag=True, expose_value=False, hidden=True)
@each_unsupported("-n --number", "-b --number-nonblank", use="pipe the output into `cat -n`")
@each_unsupported("-A --show-all", "-E --show-ends", "-e", "-T --show-tabs", "-t", use="pipe the output into `cat -A`")
@unsupported("-v", "--show-nonprinting", use="pipe the output into `cat -v`")
@unsupported("-s", "--squeeze-blank", use="pipe the output into `cat -s`")
@click.argument("paths", nargs=-1, metavar="[PATH...]")
def cat(view: View, paths: tuple[str, ...]) -> None:
    """Write the files at PATH in IMAGE to standard output, one after the other.

    \b
    Try:  ocifs cat ./debian:latest /etc/os-release
    """
    with view.files(paths) as (opened, expanded):
        for path in expanded:
            with opened.rootfs.open(path) as file:
                shutil.copyfileobj(file, sys.stdout.buffer, _CHUNK)
    sys.stdout.buffer.flush()


@command()
@view_options
@click.option("-r", "-R", "--recursive", is_flag=True, help="Copy directories recursively.")
@click.option("-a", "--archive", is_flag=True, help="Same as -r -P -p.")
@click.option(
    "-p", "--preserve", is_flag=True, help="Preserve mode, times, extended attributes and, as root, the owner."
)
@click.option("-P", "-d", "--no-dereference", "as_link", is_flag=True, help="Copy a symlink at PATH itself.")
@click.option("-n", "--no-clobber", "keep", is_flag=True, help="Keep existing files.")
@click.option("-T", "--no-target-directory", "exactly", is_flag=True, help="Copy to DEST, even if it is a directory.")
@click.option("-v", "--verbose", is_flag=True, help="Print each copied file.")
@click.option("-L", "--dereference", is_flag=True, help="Copy what a symlink at PATH leads to; the default.")
@click.option("-H", "as_named", is_flag=True, expose_value=False, hidden=True)
@click.option("-f", "--force", "forced", is_flag=True, expose_value=False, hidden=True)
@unsupported("-i", "--interactive", use="-n keeps existing files")
@unsupported("-u", "--update", use="-n keeps existing files")
@unsupported("-t", "--target-directory", use="name the directory last")
@each_unsupported("-l --link", "-s --symbolic-link", use="`ocifs mount` the image, and link into the mount")
@unsupported("--parents", use="`ocifs cp IMAGE DIRECTORY - | tar -x`")
@each_unsupported("-b --backup", "-S --suffix", use="-n keeps existing files")
@each_unsupported("--reflink", "--sparse", "--copy-contents", use="holes stay holes: leave it out")
@each_unsupported("--no-preserve", use="leave -p and -a out")
@each_unsupported("--attributes-only", use="`ocifs stat` prints attributes")
@each_unsupported(
    "--remove-destination", "--strip-trailing-slashes", use="a copy replaces an existing file: leave it out"
)
@each_unsupported("-x --one-file-system", use="an image is one file system: leave it out")
@each_unsupported("-Z --context", use="-p preserves extended attributes; or use chcon(1)")
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@click.argument("destination", metavar="DEST")
def cp(
    view: View,
    paths: tuple[str, ...],
    destination: str,
    recursive: bool,
    archive: bool,
    preserve: bool,
    as_link: bool,
    keep: bool,
    exactly: bool,
    verbose: bool,
    dereference: bool,
) -> None:
    """Copy the files at PATH in IMAGE to DEST, or into the directory DEST.

    A file appears complete, or not at all, and replaces an existing one. A directory is merged into an existing one;
    symlinks there are replaced, not followed. Holes of sparse files stay holes. If DEST is -, write the file, or a
    directory as a tar, to standard output.

    \b
    Try:  ocifs cp ./debian:latest:/etc/passwd .
          ocifs cp -a ./debian:latest /etc /opt rootfs
          ocifs cp ./debian:latest:/etc - | tar -t
    """
    from ocifs.cli.copying import Copying, copy, stream

    if dereference and (recursive or archive):
        raise click.UsageError("-L cannot be combined with -r or -a: below PATH, symlinks are copied as symlinks")
    how = Copying(
        recursive=recursive or archive,
        preserve=preserve or archive,
        follow=not (as_link or archive),
        keep=keep,
        into=not exactly,
        made=_print_copy if verbose else lambda path, target: None,
    )
    with ended_by_signals(), view.files(paths) as (opened, expanded):
        several = [os.fsdecode(path) for path in expanded]
        if len(several) > 1:
            _check_directory(destination, exactly=exactly)
        for path in several:
            losses = stream(opened.rootfs, path) if destination == "-" else copy(opened.rootfs, path, destination, how)
            for message in losses.messages():
                warn(message)
    sys.stdout.buffer.flush()


def _check_directory(destination: str, *, exactly: bool) -> None:
    """Raise UsageError unless several files can be copied to `destination`."""
    if destination == "-":
        raise click.UsageError("cp writes one file to standard output: `ocifs cat` prints several")
    if exactly or not Path(destination).is_dir():
        raise click.UsageError(f"cannot copy several files: {printable_path(destination)} is not a directory")


def _print_copy(path: str, target: str) -> None:
    write_bytes(b"'%b' -> '%b'\n" % (shown_name(os.fsencode(path)), shown_name(os.fsencode(target))))
