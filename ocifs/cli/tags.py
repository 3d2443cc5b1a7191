"""`ocifs tags`: the names of the images in a registry's repository, a layout or an archive."""

import sys

import click
import msgspec

from ocifs.cli.command import command
from ocifs.cli.options import document_options, json_option, open_source
from ocifs.cli.output import write_bytes
from ocifs.options import Options
from ocifs.spec.document import shown


@command()
@document_options
@json_option
@click.argument("image")
def tags(image: str, options: Options, as_json: bool) -> None:
    """List the tags beside IMAGE: in its repository, layout or archive. A tag in IMAGE itself does not matter.

    With --json, print one object.

    \b
    Try:  ocifs tags docker://docker.io/library/debian
          ocifs tags ./debian
    """
    source, _ = open_source(image, options)
    try:
        found = source.tags()
    finally:
        source.close()
    if as_json:
        write_bytes(msgspec.json.format(msgspec.json.encode({"image": image, "tags": found})) + b"\n")
    else:
        write_bytes(b"".join(shown(tag, 512).encode() + b"\n" for tag in found))
    sys.stdout.buffer.flush()
