"""The one table from the compression of a layer, which its media type names, to the codec that handles it."""

from ocifs.compression import Codec, gzip, plain, zstd
from ocifs.spec.mediatypes import Compression

CODECS: dict[Compression, Codec] = {"tar": plain, "gzip": gzip, "zstd": zstd}
