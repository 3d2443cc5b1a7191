"""`ocifs cache`: listing and evicting cache entries."""

from pathlib import Path

import click
import msgspec

from ocifs.cli.command import Group
from ocifs.cli.options import cache_dir_option, json_option
from ocifs.cli.output import terminal_width
from ocifs.cli.types import Size
from ocifs.errors import counted, printable_path
from ocifs.image.names import forget_unused, names_by_subject, names_of
from ocifs.report.text import fitted, human_size, local_time, table
from ocifs.store import Store, default_directory


@click.group(cls=Group)
def cache() -> None:
    """Inspect or clean the cache of indexes, blobs and merged trees.

    Every entry can be rebuilt from its image. Existing mounts keep working without the cache: they hold their files
    open.
    """


@cache.command("ls")
@cache_dir_option
@json_option
def list_entries(cache_dir: Path | None, as_json: bool) -> None:
    """List entries, least recently used first, with the images that use them, as far as they were opened."""
    store = _existing(cache_dir)
    entries = store.entries()
    known = names_by_subject(store)
    images = [names_of(entry.subject, known) for entry in entries]
    if as_json:
        found = [entry._asdict() | {"images": names} for entry, names in zip(entries, images, strict=True)]
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    width = terminal_width()
    rows = [
        # The time of last use without seconds.
        (
            entry.kind, human_size(entry.size), local_time(entry.used)[:-3],
            entry.subject if width is None else entry.subject[:19], _summary(names),
        )
        for entry, names in zip(entries, images, strict=True)
    ]  # fmt: skip
    for line in table(fitted(rows, width, elastic=(4,)) if rows else [], right=(1,)):
        click.echo(line.rstrip())
    click.echo(f"{counted(len(entries), 'entry', 'entries')}, {human_size(sum(entry.size for entry in entries))}")


def _summary(names: list[str]) -> str:
    """Return the first of the images, and the number of further ones."""
    first = printable_path(names[0]) if names else ""
    return f"{first}, and {len(names) - 1} more" if len(names) > 1 else first


@cache.command()
@cache_dir_option
@click.option("--max-size", type=Size(), required=True, help="Size to keep, e.g. 2GiB.")
def prune(cache_dir: Path | None, max_size: int) -> None:
    """Evict least recently used entries until the cache is no larger than --max-size."""
    _free(cache_dir, max_size)


@cache.command()
@cache_dir_option
def clear(cache_dir: Path | None) -> None:
    """Remove every entry, but no file that ocifs did not write."""
    _free(cache_dir, 0)


def _free(cache_dir: Path | None, max_size: int) -> None:
    store = _existing(cache_dir)
    freed = store.prune(max_size)
    forget_unused(store)
    click.echo(f"freed {human_size(freed)}")


def _existing(cache_dir: Path | None) -> Store:
    return Store.existing(cache_dir or default_directory())
