"""`ocifs setup-mount`: links to `mount.ocifs` where mount(8) looks for its helpers."""

import os
import stat
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import click

from ocifs.cli.command import command
from ocifs.errors import OcifsError, printable_path

_HELPER = "mount.ocifs"
_NAMES = (_HELPER, "mount.fuse.ocifs")


@command()
@click.option("--remove", is_flag=True, help="Remove the links.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=Path("/sbin"),
    show_default=True,
    metavar="DIR",
    help="Directory of mount helpers.",
)
def setup_mount(remove: bool, directory: Path) -> None:
    """Let mount(8), fstab and systemd mount images: link mount.ocifs and mount.fuse.ocifs in /sbin.

    \b
    Then:  mount -t ocifs /srv/debian:latest /mnt
           echo '/srv/debian:latest /mnt ocifs nofail 0 0' >>/etc/fstab
    \f
    The Debian package of ocifs brings these helpers; it needs no set-up. Installed by another user than root, ocifs is
    refused, because that user could then run programs as root.
    """
    links = [directory / name for name in _NAMES]
    foreign = next((link for link in links if os.path.lexists(link) and not _is_link_of_ours(link)), None)
    if foreign is not None:
        raise OcifsError(f"{printable_path(str(foreign))} exists, and is not a link to {_HELPER}: remove it first")
    if remove:
        for link in links:
            if os.path.lexists(link):
                link.unlink()
                click.echo(f"removed {printable_path(str(link))}")
        return
    helper = _helper(directory)
    for link in links:
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        temporary.symlink_to(helper)
        temporary.rename(link)
        click.echo(f"{printable_path(str(link))} -> {printable_path(str(helper))}")


def _is_link_of_ours(link: Path) -> bool:
    return link.is_symlink() and os.path.basename(os.readlink(link)) == _HELPER


def _helper(directory: Path) -> Path:
    """Return the installed helper. Raises OcifsError if it is missing, or if root must not run it."""
    helper = Path(sysconfig.get_path("scripts"), _HELPER)
    if not helper.exists():
        raise OcifsError(f"{printable_path(str(helper))} is missing: install ocifs again, with pipx or pip")
    if helper.parent.samefile(directory):
        raise OcifsError(f"{printable_path(str(helper))} is where mount(8) looks already: nothing to set up")
    for path in _all(helper):
        status = path.stat()
        if os.geteuid() == 0 and (
            status.st_uid or (status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX)
        ):
            raise OcifsError(
                f"{printable_path(str(path))} belongs to uid {status.st_uid} or is writable by all, and mount(8) runs "
                "as root: install ocifs as root, for example with `pipx install --global`"
            )
    return helper


def _all(helper: Path) -> Iterator[Path]:
    """Yield everything whose owner decides what the helper does: it, the package, and the directories above."""
    for path in (helper.resolve(), Path(__file__).resolve()):
        yield path
        yield from path.parents
