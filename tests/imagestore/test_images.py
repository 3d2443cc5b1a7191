from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError, NotFoundError, UnsupportedError
from ocifs.image.opening import open_image
from ocifs.imagestore.images import described, full_name, names_of, reopened, stacked
from ocifs.options import Options
from tests.images import Image, Layer, digest, tar, write_docker_archive, write_layout


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("app", "localhost/app:latest"),
        ("app:1", "localhost/app:1"),
        ("team/app:1", "localhost/team/app:1"),
        ("localhost/app", "localhost/app:latest"),
        ("example.org/app:1.0_x-Y", "example.org/app:1.0_x-Y"),
        ("host:5000/app", "host:5000/app:latest"),
    ],
)
def test_a_name_is_completed_as_podman_does(name: str, full: str) -> None:
    assert full_name(name) == full


@pytest.mark.parametrize("name", ["", "App", "a b", "app:", "app:-1", "/app", "app@sha256:1", "\x1b[31m", "a//b"])
def test_malformed_names(name: str) -> None:
    with pytest.raises(InvalidImageError, match="malformed name '"):
        full_name(name)


def test_the_names_of_local_images(tmp_path: Path) -> None:
    write_layout(tmp_path / "My Image.d", Image(tag="v1"))
    write_docker_archive(tmp_path / "saved.tar", (Image(), ["example.org/app:2", "other:3"]))
    for text, name in (
        (f"{tmp_path}/My Image.d:v1", "localhost/my-image:v1"),
        (f"{tmp_path}/saved.tar", "localhost/saved:latest"),
        (f"{tmp_path}/saved.tar:example.org/app:2", "example.org/app:2"),
        (f"{tmp_path}/saved.tar:other:3", "localhost/other:3"),
    ):
        with open_image(text) as image:
            assert names_of(image) == (name,)


@pytest.mark.parametrize(
    "form", ["oci:{0}/layout:latest", "{0}/layout", "docker-archive:{0}/saved.tar:@0", "{0}/saved.tar"]
)
def test_an_image_is_opened_again(tmp_path: Path, form: str) -> None:
    write_layout(tmp_path / "layout", Image())
    write_docker_archive(tmp_path / "saved.tar", (Image(), ["app:1"]))
    with open_image(form.format(tmp_path)) as image:
        new = described(stacked(image), ())
    with reopened(new.origin, Options()) as image:
        assert described(stacked(image), ()).record.layer == new.record.layer


def test_a_layout_still_has_the_image_when_its_tag_moves(tmp_path: Path) -> None:
    layers = tuple(Layer(tar({name: b""})) for name in ("first", "second"))
    write_layout(tmp_path / "layout", Image((layers[0],)))
    with open_image(tmp_path / "layout") as image:
        origin = described(stacked(image), ()).origin
    write_layout(tmp_path / "layout", Image((layers[1],)), Image((layers[0],), tag="old"))
    with reopened(origin, Options()) as image:
        assert image.layers[0].index.summary.diff_id == digest(layers[0].tar)


def test_another_image_in_its_place_is_not_taken_for_it(tmp_path: Path) -> None:
    write_docker_archive(tmp_path / "saved.tar", (Image(), ["app:1"]))
    with open_image(tmp_path / "saved.tar") as image:
        origin = described(stacked(image), ()).origin
    write_docker_archive(tmp_path / "saved.tar", (Image((Layer(tar({"other": b""})),)), ["app:1"]))
    with pytest.raises(NotFoundError, match="is another image now: add it again"):
        reopened(origin, Options())


def test_a_part_of_an_image_is_refused(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", Image((Layer(), Layer(tar({"b": b""})))))
    with open_image(f"{tmp_path}/layout~1") as image, pytest.raises(UnsupportedError, match="leaves out layers"):
        described(stacked(image), ())
