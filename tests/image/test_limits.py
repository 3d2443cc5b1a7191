"""What the layers of an image may cost together, whether the cache knows them or not."""

import threading
from pathlib import Path

import pytest

from ocifs.errors import LimitError, OcifsError
from ocifs.image.opening import open_image
from ocifs.image.verification import verify_image
from ocifs.limits import Limits, Total
from ocifs.options import Options
from ocifs.store import Store
from tests.images import Image, Layer, write_layout
from tests.tars import directory, file, long_name, symlink, tar

ONE = Layer(tar([file(b"a", b"1" * 3000), file(b"b")]), "tar")
TWO = Layer(tar([file(b"a", b"2" * 3000), file(b"deep/c")]), "tar")


def refusal(image: Path, limits: Limits, store: Store | None = None) -> str:
    with pytest.raises(LimitError) as caught:
        open_image(image, Options(store=store or Store(None), limits=limits))
    return str(caught.value)


SUMS = [
    (Limits(image_entries=3), "4 tar entries: over the limit image-entries=3;"),
    (Limits(image_toc=100), "bytes of names and attributes: over the limit image-toc=100;"),
    (Limits(image_uncompressed=9000), "over the limit image-uncompressed=9000;"),
]


@pytest.mark.parametrize(("limits", "message"), SUMS)
def test_each_layer_is_within_the_limit_but_not_both(limits: Limits, message: str, tmp_path: Path) -> None:
    for layer in (ONE, TWO):
        open_image(write_layout(tmp_path / layer.blob.hex()[:8], Image((layer,))), Options(limits=limits)).close()
    assert message in refusal(write_layout(tmp_path / "image", Image((ONE, TWO))), limits)


@pytest.mark.parametrize(("limits", "message"), SUMS)
def test_the_cache_makes_no_difference(limits: Limits, message: str, tmp_path: Path) -> None:
    image = write_layout(tmp_path / "image", Image((ONE, TWO)))
    store = Store(tmp_path / "cache")
    open_image(image, Options(store=store)).close()
    assert message in refusal(image, limits, store)


@pytest.mark.parametrize(("limits", "message"), SUMS)
def test_a_layer_that_is_listed_twice_counts_twice(limits: Limits, message: str, tmp_path: Path) -> None:
    assert message in refusal(write_layout(tmp_path / "image", Image((ONE, ONE))), limits)


def test_what_stays_within_the_limits(tmp_path: Path) -> None:
    exact = Limits(image_entries=5, image_uncompressed=2 * len(ONE.tar), paths=30)
    open_image(write_layout(tmp_path / "image", Image((ONE, TWO))), Options(limits=exact)).close()


def test_a_layer_listed_five_hundred_times(tmp_path: Path) -> None:
    """Indexed once, and not merged 500 times: that took minutes."""
    layer = Layer(tar([file(b"%d" % number) for number in range(20_001)]))
    message = refusal(write_layout(tmp_path / "image", Image((layer,) * 500)), Limits())
    assert "10000500 tar entries: over the limit image-entries=10000000;" in message


def test_decoding_ends_as_soon_as_the_layers_are_too_large(tmp_path: Path) -> None:
    layers = tuple(Layer(tar([file(b"f", bytes([number]) * (4 << 20))])) for number in range(4))
    read: set[str] = set()
    options = Options(
        limits=Limits(image_uncompressed=5 << 20),
        low_memory=True,  # one layer after the other
        progress=lambda layer, done, total: read.add(layer),
    )
    with pytest.raises(LimitError, match="inflate to more than 5242880 bytes: over the limit image-uncompressed=5MiB"):
        open_image(write_layout(tmp_path / "image", Image(layers)), options)
    assert len(read) <= 2


def test_verify_counts_as_well(tmp_path: Path) -> None:
    image = write_layout(tmp_path / "image", Image((ONE, TWO)))
    problems = [check.problem for check in verify_image(str(image), Options(limits=Limits(image_uncompressed=9000)))]
    assert any("over the limit image-uncompressed=9000;" in (problem or "") for problem in problems)
    with pytest.raises(LimitError, match="image-entries=3"):
        list(verify_image(str(image), Options(limits=Limits(image_entries=3))))


def test_implied_directories_are_entries(tmp_path: Path) -> None:
    layer = Layer(tar([long_name(b"%d/" % number + b"d/" * 90 + b"f") + file(b"f") for number in range(10)]))
    message = refusal(write_layout(tmp_path / "image", Image((layer,))), Limits(image_entries=900))
    assert "more than 900 tar entries and directories that they imply: over the limit image-entries=900;" in message


def test_steps_through_symlinks_are_those_of_all_layers(tmp_path: Path) -> None:
    first = Layer(tar([directory(b"d"), symlink(b"l", b"./" * 40 + b"d")]))
    others = [Layer(tar([file(b"l/%d" % number)])) for number in range(3)]
    open_image(write_layout(tmp_path / "few", Image((first, *others[:2]))), Options(limits=Limits(symlink_steps=90)))
    message = refusal(write_layout(tmp_path / "many", Image((first, *others))), Limits(symlink_steps=90))
    assert "steps through the image's symlinks: over the limit symlink-steps=90;" in message


def test_paths_that_symlinks_make(tmp_path: Path) -> None:
    """Each symlink leads further down from where the one before does, so that paths have any length."""
    members = []
    for number in range(10):
        target = (b"/l%d/" % (number - 1) if number else b"/") + b"d/" * 40
        members += [symlink(b"l%d" % number, target), file(b"l%d/f" % number)]
    image = write_layout(tmp_path / "image", Image((Layer(tar(members)),)))
    open_image(image, Options()).close()
    assert "bytes together: over the limit paths=64KiB;" in refusal(image, Limits(paths=64 << 10))


def test_a_total_counts_each_part_at_its_most() -> None:
    total = Total(Limits(image_uncompressed=100), "image_uncompressed", "too much")
    total.grow("a", 60)
    total.grow("a", 20)  # the same once more, another way
    total.grow("a", 60)
    total.grow("b", 40)
    with pytest.raises(LimitError, match="too much: over the limit image-uncompressed=100;"):
        total.grow("b", 41)


def test_a_total_is_one_for_all_threads() -> None:
    total = Total(Limits(image_uncompressed=4000), "image_uncompressed", "too much")
    failed: list[OcifsError] = []

    def grow(part: int) -> None:
        try:
            for amount in range(1001):
                total.grow(part, amount)
        except OcifsError as error:
            failed.append(error)

    threads = [threading.Thread(target=grow, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with pytest.raises(LimitError):
        total.grow(4, 1)
