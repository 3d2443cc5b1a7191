"""Match GZIDX files with layers: by the blob size in the file, or by the user's layer number."""

import re
from collections.abc import Iterable

from ocifs.compression.gzidx import open_gzidx, read_header
from ocifs.errors import InvalidImageError, NotFoundError, printable_path
from ocifs.sources.resolve import ImageLayer
from ocifs.spec.digest import Digest

_NUMBERED = re.compile(r"(-?[0-9]{1,9})=(.+)", re.DOTALL)


def match_gzidx(names: Iterable[str], layers: tuple[ImageLayer, ...]) -> dict[Digest, str]:
    """Return the path of the GZIDX file for each blob that has one; `names` are `FILE` or `N=FILE`.

    Raises:
        NotFoundError: The layer or the file does not exist, or several layers match.
        InvalidImageError: It is not a GZIDX file.
    """
    return dict(_match(name, layers) for name in names)


def _match(name: str, layers: tuple[ImageLayer, ...]) -> tuple[Digest, str]:
    if match := _NUMBERED.fullmatch(name):
        number, path = int(match[1]), match[2]
        if not -len(layers) <= number < len(layers):
            raise NotFoundError(f"--gzidx {number}=: there is no layer {number}")
        return layers[number].descriptor.digest, path
    try:
        with open_gzidx(name) as file:
            size = read_header(file).blob_size
    except InvalidImageError as error:
        raise InvalidImageError(f"{printable_path(name)}: {error}") from None
    found = {each.descriptor.digest for each in layers if each.descriptor.size == size}
    if len(found) != 1:
        many = "several layers have" if found else "no layer has"
        raise NotFoundError(f"{printable_path(name)}: {many} the {size} bytes of its blob: name one as --gzidx N=FILE")
    return found.pop(), name
