import hashlib

import pytest

from ocifs.errors import InvalidImageError, OcifsError, UnsupportedError
from ocifs.spec.digest import DiffID, Digest, chain_id

A, B, C = (DiffID(Digest.of(letter)) for letter in (b"a", b"b", b"c"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", InvalidImageError),
        ("sha256", InvalidImageError),
        ("sha256:", InvalidImageError),
        ("sha256:../../../etc/passwd", InvalidImageError),
        ("sha256:" + "a" * 63, InvalidImageError),
        ("sha256:" + "a" * 65, InvalidImageError),
        ("sha256:" + "A" * 64, InvalidImageError),
        ("sha256:" + "g" * 64, InvalidImageError),
        ("sha256:" + "a" * 64 + "\n", InvalidImageError),
        (" sha256:" + "a" * 64, InvalidImageError),
        ("SHA256:" + "a" * 64, InvalidImageError),
        ("sha256:" + "a" * 64 + "/../x", InvalidImageError),
        ("sha256:" + "\u0661" * 64, InvalidImageError),
        ("sha512:" + "a" * 64, InvalidImageError),
        ("md5:" + "a" * 32, UnsupportedError),
        ("sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564", UnsupportedError),
    ],
)
def test_refused(text: str, error: type[OcifsError]) -> None:
    with pytest.raises(error, match="digest") as caught:
        Digest(text)
    assert str(caught.value).isprintable()


def test_refusal_of_a_long_digest_is_short() -> None:
    with pytest.raises(InvalidImageError) as caught:
        Digest("\x1b" * 1_000_000)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_parts(algorithm: str) -> None:
    digest = Digest.of(b"x", algorithm)
    assert digest.algorithm == algorithm
    assert digest.hex == hashlib.new(algorithm, b"x").hexdigest()
    assert f"{digest}" == str(digest) == f"{algorithm}:{digest.hex}"
    assert Digest(str(digest)) == digest
    assert len({digest, Digest(str(digest))}) == 1


def test_hasher_is_of_the_algorithm() -> None:
    digest = Digest.of(b"ab", "sha512")
    hasher = digest.hasher()
    hasher.update(b"a")
    hasher.update(b"b")
    assert hasher.hexdigest() == digest.hex


def test_chain_id() -> None:
    ab = Digest.of(f"{A} {B}".encode())
    assert str(chain_id([A])) == A
    assert chain_id([A, B]) == ab
    assert chain_id([A, B, C]) == Digest.of(f"{ab} {C}".encode())


def test_no_layers_have_no_chain_id() -> None:
    """The digest of nothing is the diff ID of a layer of 0 bytes."""
    with pytest.raises(ValueError, match="at least one layer"):
        chain_id([])


def test_chain_id_of_sha512_layers_is_sha256() -> None:
    layers = [DiffID(Digest.of(letter, "sha512")) for letter in (b"a", b"b")]
    assert chain_id(layers).algorithm == "sha256"
