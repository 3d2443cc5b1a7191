import pytest

from ocifs.errors import UnsupportedError
from ocifs.spec.mediatypes import Compression, layer_type


@pytest.mark.parametrize(
    ("media_type", "compression", "nondistributable"),
    [
        ("application/vnd.oci.image.layer.v1.tar", "tar", False),
        ("application/vnd.oci.image.layer.v1.tar+gzip", "gzip", False),
        ("application/vnd.oci.image.layer.v1.tar+zstd", "zstd", False),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", "tar", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "gzip", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "zstd", True),
        ("application/vnd.docker.image.rootfs.diff.tar", "tar", False),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip", False),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", "zstd", False),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "gzip", True),
    ],
)
def test_layer_types(media_type: str, compression: Compression, nondistributable: bool) -> None:
    assert layer_type(media_type, "layer x") == (compression, nondistributable)


@pytest.mark.parametrize(
    ("media_type", "message"),
    [
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "layer x is encrypted"),
        ("application/vnd.oci.image.layer.v1.tar+encrypted", "layer x is encrypted"),
        ("application/vnd.oci.image.layer.v1.tar+bzip2", "layer x has the unsupported media type"),
        ("application/vnd.oci.image.layer.v1.tar.gzip", "unsupported"),
        ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "unsupported"),
        ("", "unsupported"),
        ("x\x1b[2J\n" * 1000, r"x\\x1b\[2J\\n"),
    ],
)
def test_unsupported_layer_types(media_type: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        layer_type(media_type, "layer x")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000
