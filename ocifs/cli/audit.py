"""`ocifs waste` and `verify`: audit an image."""

import click
from msgspec.structs import replace

from ocifs.cli.command import command
from ocifs.cli.exit_status import NO, YES, failures_not_as_no
from ocifs.cli.options import image_options, json_option, open_image
from ocifs.cli.output import Output, terminal_width
from ocifs.cli.progress import indexing, working
from ocifs.cli.types import Size
from ocifs.cli.unsupported import each_unsupported, unsupported
from ocifs.errors import InvalidImageError, printable_path
from ocifs.options import Options


@command()
@image_options
@click.option("-n", "count", type=click.IntRange(min=0), default=20, show_default=True, help="Number of files to list.")
@click.option("--duplicates", "copies", is_flag=True, help="Also list files with equal content.")
@click.option(
    "--fail-under", type=click.FloatRange(0, 1), metavar="SCORE", help="Fail if the efficiency is below SCORE (0 to 1)."
)
@click.option("--highest-wasted-bytes", type=Size(), metavar="SIZE", help="Fail if more than SIZE bytes are wasted.")
@click.option(
    "--highest-user-wasted-percent",
    type=click.FloatRange(0, 1),
    metavar="PART",
    help="Fail if more of the user bytes is wasted, e.g. 0.1.",
)
@click.option("--max-hidden-bytes", type=Size(), metavar="SIZE", help="Fail if more than SIZE bytes are hidden.")
@json_option
@each_unsupported("--ci", "--ci-config", use="limits such as --fail-under always apply")
@unsupported("--lowestEfficiency", use="--fail-under SCORE")
@unsupported("--highestWastedBytes", use="--highest-wasted-bytes SIZE")
@unsupported("--highestUserWastedPercent", use="--highest-user-wasted-percent PART")
@click.argument("image")
def waste(
    image: str,
    options: Options,
    count: int,
    copies: bool,
    fail_under: float | None,
    highest_wasted_bytes: int | None,
    highest_user_wasted_percent: float | None,
    max_hidden_bytes: int | None,
    as_json: bool,
) -> int:
    """Show file data that IMAGE stores but later layers replace or remove.

    A smaller image would not store the hidden bytes; --max-hidden-bytes limits them. Efficiency and wasted bytes are
    those of dive(1), and differ. The exit status is 1 if a limit is violated.

    \b
    Try:  ocifs waste ./debian:latest
          ocifs waste --max-hidden-bytes 50MiB ./debian:latest
          ocifs waste --fail-under 0.95 --highest-wasted-bytes 20MiB ./app
    \f
    dive counts all copies of a path that several layers store, also the visible one, but no file of a directory that
    is removed as a whole. An image with many hidden bytes may thus have a high efficiency.
    """
    from ocifs.report.waste import duplicates
    from ocifs.report.waste import waste as find_waste
    from ocifs.report.waste_text import Rules, broken_rules, to_json, waste_lines

    output = Output()
    rules = Rules(
        lowest_efficiency=fail_under,
        highest_wasted_bytes=highest_wasted_bytes,
        highest_user_wasted=highest_user_wasted_percent,
        highest_hidden_bytes=max_hidden_bytes,
    )
    with failures_not_as_no(), open_image(image, options) as opened:
        with working("looking for hidden files") as progress:
            found = find_waste(opened, progress)
        broken = broken_rules(rules, found.efficiency, found.hidden_bytes)
        with working("looking for duplicates") as progress:
            same = duplicates(opened.rootfs, progress) if copies else None
        output.lines(
            [to_json(found, same, count, broken)]
            if as_json
            else waste_lines(found, same, count, output.show, terminal_width())
        )
    for rule in broken:
        click.echo(f"ocifs: {rule}", err=True)
    return NO if broken else YES


@command()
@image_options
@json_option
@click.argument("image")
def verify(image: str, options: Options, as_json: bool) -> int:
    """Read all of IMAGE again, and verify it and its cache entries.

    Checks the digests of manifest, config and blobs; that each blob decodes to its diff ID, span by span like reads do;
    that the LayerIndex matches the tar stream; that merging the layers yields the cached tree image; and that the hot
    packs, cached and published, have the bytes of the layers. Changes nothing. The exit status is 4 if a check fails.
    With --json, print one object for each check on a line.

    \b
    Try:  ocifs verify ./debian:latest && echo sound
    """
    from ocifs.image.verification import verify_image
    from ocifs.report.verification import check_line, summary_line, to_json

    with indexing("verifying") as progress:
        checks = list(
            verify_image(image, replace(options, progress=progress, downloading=progress.downloading))
        )  # so that nothing is printed between the progress bars
    for check in checks:
        click.echo(to_json(check) if as_json else check_line(check))
    if not as_json:
        click.echo(summary_line(checks, printable_path(image)))
    return InvalidImageError.exit_code if any(check.problem for check in checks) else 0
