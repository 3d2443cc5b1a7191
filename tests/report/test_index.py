"""What is said of an image's index."""

import msgspec
import pytest

from ocifs.image.opening import open_image
from ocifs.report.index import index_report, render_index
from tests import images, tars

LAYERS = (
    images.Layer(tars.tar([tars.file(b"a", bytes(3 << 20)), tars.directory(b"b")])),
    images.Layer(tars.tar([tars.file(b"c", b"content")]), "zstd"),
)


def test_the_report_and_its_lines(tmp_path_factory: pytest.TempPathFactory) -> None:
    layout = images.write_layout(tmp_path_factory.mktemp("image") / "layout", images.Image(LAYERS))
    with open_image(layout) as image:
        report = index_report(image, 1.23456)
    assert report.digest == str(image.digest)
    assert (report.inodes, report.seconds) == (4, 1.235)
    for layer, described in zip(LAYERS, report.layers, strict=True):
        assert described.digest == images.digest(layer.blob)
        assert described.diff_id == images.digest(layer.tar)
        assert described.media_type == f"{images.LAYER}+{layer.compression}"
        assert (described.size, described.uncompressed) == (len(layer.blob), len(layer.tar))
        assert not described.reframed
    assert [described.entries for described in report.layers] == [2, 1]
    assert [described.spans for described in report.layers] == [index.span_count for index in image.indexes]
    lines = render_index(report).splitlines()
    assert len(lines) == 4
    assert str(layout) in lines[0]
    assert "2 entries" in lines[1]
    assert "(reframed)" not in lines[1]
    assert lines[3].split()[:2] == ["4", "inodes"]


def test_json_keys_stay(tmp_path_factory: pytest.TempPathFactory) -> None:
    layout = images.write_layout(tmp_path_factory.mktemp("image") / "layout", images.Image(LAYERS))
    with open_image(layout) as image:
        fields = msgspec.to_builtins(index_report(image, 0))
    assert list(fields) == ["image", "digest", "layers", "inodes", "tree_image_size", "seconds"]
    assert list(fields["layers"][0]) == [
        "digest", "diff_id", "media_type", "size", "uncompressed", "entries", "spans", "index_size", "reframed",
    ]  # fmt: skip
