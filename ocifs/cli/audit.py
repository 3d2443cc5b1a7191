"""`ocifs waste` and `verify`: whether an image is well made, and whether it is what it claims to be."""

import click

from ocifs.cli.options import Opening, Size, image_options, json_option
from ocifs.cli.output import Output
from ocifs.cli.progress import indexing
from ocifs.cli.verdict import NO, YES, answering
from ocifs.errors import InvalidImageError, printable_path


@click.command(short_help="Show what an image stores in vain.")
@image_options
@click.option("-n", "count", type=click.IntRange(min=0), default=20, show_default=True, help="How many files to list.")
@click.option("--duplicates", "copies", is_flag=True, help="List files that are the same as well; reads contents.")
@click.option("--fail-under", type=click.FloatRange(0, 1), metavar="SCORE", help="Fail if the efficiency is lower.")
@click.option("--highest-wasted-bytes", type=Size(), metavar="SIZE", help="Fail if more is wasted.")
@click.option(
    "--highest-user-wasted-percent",
    type=click.FloatRange(0, 1),
    metavar="PART",
    help="Fail if more is wasted of what is above the base layer; 0.1 is 10 %.",
)
@json_option
@click.argument("image")
def waste(
    image: str,
    opening: Opening,
    count: int,
    copies: bool,
    fail_under: float | None,
    highest_wasted_bytes: int | None,
    highest_user_wasted_percent: float | None,
    as_json: bool,
) -> int:
    """Show the bytes of files that IMAGE stores and nobody sees, because later layers replace or remove the files.

    Efficiency, wasted bytes and user bytes are those of dive(1), and so are the rules: the exit status is 1 if one is
    broken.

    \b
    Try:  ocifs waste ./debian:latest
          ocifs waste --fail-under 0.95 --highest-wasted-bytes 20MB ./debian:latest
    """
    from ocifs.report.waste import duplicates
    from ocifs.report.waste import waste as find_waste
    from ocifs.report.wasted import Rules, broken_rules, to_json, waste_lines

    output = Output()
    rules = Rules(
        lowest_efficiency=fail_under,
        highest_wasted_bytes=highest_wasted_bytes,
        highest_user_wasted=highest_user_wasted_percent,
    )
    with answering(), opening.open(image) as opened:
        found = find_waste(opened)
        broken = broken_rules(rules, found.efficiency)
        same = duplicates(opened.rootfs) if copies else None
        output.lines([to_json(found, same, count, broken)] if as_json else waste_lines(found, same, count, output.show))
    for rule in broken:
        click.echo(f"ocifs: {rule}", err=True)
    return NO if broken else YES


@click.command(short_help="Read an image again and prove it.")
@image_options
@json_option
@click.argument("image")
def verify(image: str, opening: Opening, as_json: bool) -> int:
    """Read all of IMAGE again, and hold it against its digests and against what the cache has of it.

    Proven are: manifest, config and blobs by their digests; that each blob decodes to its diff ID, by way of the parts
    that reads use; that the LayerIndex has the entries of the tar stream; that the tree image is what these entries
    make. Nothing is changed. The exit status is 4 if anything is wrong. With --json one object for each
    check on a line.

    \b
    Try:  ocifs verify ./debian:latest && echo sound
    """
    from ocifs.image.verification import verify_image
    from ocifs.report.verification import check_line, summary_line, to_json

    with indexing("verifying") as progress:
        checks = list(verify_image(image, opening.options(progress)))  # nothing is printed among the bars
    for check in checks:
        click.echo(to_json(check) if as_json else check_line(check))
    if not as_json:
        click.echo(summary_line(checks, printable_path(image)))
    return InvalidImageError.exit_code if any(check.problem for check in checks) else 0
