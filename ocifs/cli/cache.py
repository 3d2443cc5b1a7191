"""`ocifs cache`: listing and evicting cache entries."""

from pathlib import Path

import click
import msgspec

from ocifs.cli.command import Group
from ocifs.cli.options import cache_dir_option, json_option
from ocifs.cli.types import Size
from ocifs.report.text import human_size, local_time, table
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
    """List entries, least recently used first."""
    entries = _existing(cache_dir).entries()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([entry._asdict() for entry in entries])).decode())
        return
    # The time of last use without seconds.
    rows = [(entry.kind, human_size(entry.size), local_time(entry.used)[:-3], entry.subject) for entry in entries]
    for line in table(rows, right=(1,)):
        click.echo(line.rstrip())
    click.echo(f"{len(entries)} entries, {human_size(sum(entry.size for entry in entries))}")


@cache.command()
@cache_dir_option
@click.option("--max-size", type=Size(), required=True, help="Size to keep, e.g. 2GiB.")
def prune(cache_dir: Path | None, max_size: int) -> None:
    """Evict least recently used entries until the cache is no larger than --max-size."""
    click.echo(f"freed {human_size(_existing(cache_dir).prune(max_size))}")


@cache.command()
@cache_dir_option
def clear(cache_dir: Path | None) -> None:
    """Remove every entry, but no file that ocifs did not write."""
    click.echo(f"freed {human_size(_existing(cache_dir).prune(0))}")


def _existing(cache_dir: Path | None) -> Store:
    return Store.existing(cache_dir or default_directory())
