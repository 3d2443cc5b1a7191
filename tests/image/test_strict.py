"""`Options.strict`: what is a warning by default is an error then, be it noticed now or long ago."""

import gzip
from pathlib import Path

import pytest

from ocifs.errors import InvalidImageError
from ocifs.image.opening import open_image
from ocifs.image.verification import verify_image
from ocifs.limits import Limits
from ocifs.options import Options
from ocifs.store import Store
from tests.images import Image, Layer, write_layout
from tests.tars import base256, directory, file, pax, symlink, tar

_BASE = Layer(tar([directory(b"a"), file(b"a/x", b"X"), symlink(b"link", b"a")]))


class _Padded(Layer):
    """A gzip layer that something follows."""

    @property
    def blob(self) -> bytes:
        return gzip.compress(self.tar, mtime=0) + b"rubbish"


ODD = {
    "a path above the root": (Layer(tar([file(b"../../x")])), "leads above the root"),
    "AUFS metadata": (Layer(tar([directory(b".wh..wh.plnk")])), "AUFS metadata"),
    "a whiteout that is a directory": (Layer(tar([directory(b".wh.a")])), "should be an empty file"),
    "a whiteout with data": (Layer(tar([file(b"a/.wh.x", b"data")])), "should be an empty file"),
    "a whiteout's name on the way": (Layer(tar([file(b".wh.b/file")])), "whiteout's name"),
    "a name given twice": (Layer(tar([file(b"f", b"1"), file(b"f", b"2")])), "occurs twice"),
    "bytes after the gzip stream": (_Padded(tar([file(b"f")])), "7 bytes after the gzip stream"),
    "a time out of range": (Layer(tar([file(b"f", mtime=base256(2**70, 12))])), "out of range"),
    "an extended attribute of no namespace": (
        Layer(tar([pax({b"SCHILY.xattr.foreign.x": b"1"}) + file(b"f")])),
        "no namespace",
    ),
}


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """An image with something odd, and a word of what is said of it."""
    layer, words = ODD[request.param]
    return str(write_layout(tmp_path / "image", Image((_BASE, layer)))), words


def refusal(image: str, store: Store | None = None, *, changes_only: bool = False) -> str:
    told: list[str] = []
    options = Options(store=store or Store(None), strict=True, changes_only=changes_only, warn=told.append)
    with pytest.raises(InvalidImageError) as caught:
        open_image(image, options)
    assert told == []
    return str(caught.value)


def test_it_is_a_warning_by_default_and_an_error_if_strict(odd: tuple[str, str], tmp_path: Path) -> None:
    image, words = odd
    cold = refusal(image)
    assert words in cold
    assert cold.isprintable()
    assert cold.endswith("refused by --strict")
    warnings: list[str] = []
    store = Store(tmp_path / "cache")
    with open_image(image, Options(store=store, warn=warnings.append)):
        assert len(warnings) == 1
        assert words in warnings[0]


def test_the_cache_remembers(odd: tuple[str, str], tmp_path: Path) -> None:
    image, _ = odd
    store = Store(tmp_path / "cache")
    for changes_only in (False, True):
        open_image(image, Options(store=store, changes_only=changes_only)).close()
    before = {entry.subject: entry.size for entry in store.entries()}
    assert refusal(image, store) == refusal(image) == refusal(image, store, changes_only=True)
    assert {entry.subject: entry.size for entry in store.entries()} == before
    open_image(image, Options(store=store)).close()


def test_a_layer_below_what_is_odd_is_not_refused(odd: tuple[str, str], tmp_path: Path) -> None:
    image, _ = odd
    with open_image(image, Options(strict=True, layer=0)) as opened:
        assert opened.rootfs.open("a/x").read() == b"X"


def test_verification_refuses_it_as_well(odd: tuple[str, str], tmp_path: Path) -> None:
    image, words = odd
    store = Store(tmp_path / "cache")
    open_image(image, Options(store=store)).close()
    for kept in (store, Store(None)):
        assert [check.problem for check in verify_image(image, Options(store=kept)) if check.problem] == []
        problems = [check.problem for check in verify_image(image, Options(store=kept, strict=True)) if check.problem]
        assert len(problems) == 1
        assert words in problems[0]


@pytest.mark.parametrize("length", [990, 1000, 1015, 1021, 1100, 3000])
@pytest.mark.parametrize("letter", ["n", "ñ"])
def test_a_long_warning_is_cut(tmp_path: Path, letter: str, length: int) -> None:
    name = (letter * 100 + "/").encode() * 40
    layer = Layer(tar([pax({b"path": b"../" + name[:length]}) + file(b"f")]))
    image = str(write_layout(tmp_path / "image", Image((_BASE, layer))))
    message = refusal(image, Store(tmp_path / "cache"))
    assert message.startswith("tree: layer 1, entry '../")
    assert len(message.encode()) < 1060
    assert message.isprintable()


def test_all_that_is_odd_is_counted(tmp_path: Path) -> None:
    image = str(write_layout(tmp_path / "image", Image((Layer(tar([file(b"same")] * 4)),))))
    assert "(and 2 more)" in refusal(image)


def test_nothing_odd_is_nothing_refused(tmp_path: Path) -> None:
    image = str(write_layout(tmp_path / "image", Image((_BASE, Layer(tar([file(b"a/.wh.x")]), "zstd")))))
    store = Store(tmp_path / "cache")
    for _ in range(2):
        with open_image(image, Options(store=store, strict=True, limits=Limits(entries=3))) as opened:
            assert [path for path, _ in opened.rootfs.walk()] == [b"", b"a", b"link"]
            assert opened.changes(1).tree.warnings == (0, "")
