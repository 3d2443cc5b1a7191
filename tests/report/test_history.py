"""The steps of the build, however they fit the layers."""

from pathlib import Path

import pytest

from ocifs.report.history import build_history, history_lines
from ocifs.sources.reference import parse_reference
from ocifs.sources.resolve import ResolvedImage, open_source, resolve_image
from tests.images import Image, Json, Layer, digest, write_layout


def resolved(path: Path, history: list[Json]) -> ResolvedImage:
    layout = write_layout(path / "image", Image((Layer(), Layer(compression="zstd")), config={"history": history}))
    reference = parse_reference(str(layout))
    source = open_source(reference)
    image = resolve_image(source, reference)
    source.close()
    return image


ADD: Json = {"created_by": "ADD", "created": "2001-02-03T04:05:06.789Z"}
ENV: Json = {"created_by": "ENV a=b", "empty_layer": True}


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([], [("", 0), ("", 1)]),
        ([ADD], [("ADD", 0), ("", 1)]),
        ([ADD, ENV, ADD], [("ADD", 0), ("ENV a=b", None), ("ADD", 1)]),
        ([ENV, ADD, ADD, ENV], [("ENV a=b", None), ("ADD", 0), ("ADD", 1), ("ENV a=b", None)]),
        ([ADD, ADD, ADD], [("ADD", 0), ("ADD", 1), ("ADD", None)]),
    ],
)
def test_each_step_has_its_layer(tmp_path: Path, history: list[Json], expected: list[tuple[str, int | None]]) -> None:
    steps = build_history(resolved(tmp_path, history))
    assert [(step.created_by, step.layer) for step in steps] == expected
    sizes = {0: len(Layer().blob), 1: len(Layer(compression="zstd").blob), None: None}
    assert [step.size for step in steps] == [sizes[layer] for _, layer in expected]


def test_lines(tmp_path: Path) -> None:
    long: Json = {"created_by": "RUN  a\n\t&& b \x1b[2J " + "x" * 200}
    steps = build_history(resolved(tmp_path, [ADD, ENV, long]))
    whole, cut = list(history_lines(steps, None)), list(history_lines(steps, 80))
    assert whole[0].split() == ["LAYER", "DIGEST", "SIZE", "CREATED", "CREATED", "BY"]
    assert whole[1].split()[1] == digest(Layer().blob)[:19]
    assert whole[1].endswith("2001-02-03T04:05:06  ADD")
    assert whole[2].split() == ["-", "-", "-", "-", "ENV", "a=b"]
    assert r"RUN a && b \x1b[2J xxx" in whole[3]
    assert cut[:3] == whole[:3]
    assert len(cut[3]) == 80
    assert cut[3].endswith("…")
