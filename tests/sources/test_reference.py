import os
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocifs.errors import InvalidImageError, NotFoundError, OcifsError, UnsupportedError
from ocifs.sources.reference import Reference, matching, parse_reference, split_path
from ocifs.spec.digest import Digest

X = Digest.of(b"x")
X512 = Digest.of(b"x", "sha512")
EXISTING = {"/dir", "dir", "a.tar", "odd:path", "odd:path:1", "at@sha256:path", "both", "both:tag", "oci"}


def parse(text: str) -> Reference:
    return parse_reference(text, EXISTING.__contains__)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dir", ("dir", None, None, None, None)),
        ("dir:1.0", ("dir", None, "1.0", None, None)),
        ("dir:a:b", ("dir", None, "a:b", None, None)),
        ("dir:host:5000/app:1", ("dir", None, "host:5000/app:1", None, None)),
        ("dir: odd tag\x1b ", ("dir", None, " odd tag\x1b ", None, None)),
        ("dir:a@b", ("dir", None, "a@b", None, None)),
        (f"dir@{X}", ("dir", None, None, X, None)),
        (f"dir@{X512}", ("dir", None, None, X512, None)),
        (f"dir:app@{X}", ("dir", None, f"app@{X}", None, None)),
        ("dir:@2", ("dir", None, None, None, 2)),
        ("dir:@two", ("dir", None, "@two", None, None)),
        ("odd:path", ("odd:path", None, None, None, None)),
        ("odd:path:1", ("odd:path:1", None, None, None, None)),
        ("odd:path:2", ("odd:path", None, "2", None, None)),
        ("odd:path:1:2", ("odd:path:1", None, "2", None, None)),
        (f"odd:path@{X}", ("odd:path", None, None, X, None)),
        ("at@sha256:path", ("at@sha256:path", None, None, None, None)),
        (f"at@sha256:path@{X}", ("at@sha256:path", None, None, X, None)),
        ("both:tag", ("both:tag", None, None, None, None)),
        ("both:tag:tag", ("both:tag", None, "tag", None, None)),
        ("both:other", ("both", None, "other", None, None)),
        ("oci:dir", ("dir", "oci", None, None, None)),
        ("oci:/dir:1", ("/dir", "oci", "1", None, None)),
        ("dir:/dir", ("/dir", "dir", None, None, None)),
        ("dir:oci", ("oci", "dir", None, None, None)),
        ("dir:oci:1", ("oci", "dir", "1", None, None)),
        (f"oci:dir@{X}", ("dir", "oci", None, X, None)),
        ("oci:oci", ("oci", "oci", None, None, None)),
        ("oci", ("oci", None, None, None, None)),
        ("oci-archive:a.tar", ("a.tar", "oci-archive", None, None, None)),
        ("oci-archive:a.tar:1", ("a.tar", "oci-archive", "1", None, None)),
        ("docker-archive:a.tar", ("a.tar", "docker-archive", None, None, None)),
        ("docker-archive:a.tar:app:1", ("a.tar", "docker-archive", "app:1", None, None)),
        ("docker-archive:a.tar:@0", ("a.tar", "docker-archive", None, None, 0)),
        ("docker://app", ("app", "docker", "latest", None, None)),
        ("docker://host:5000/a/b-c__d:1.0", ("host:5000/a/b-c__d", "docker", "1.0", None, None)),
        ("docker://[::1]:5000/app", ("[::1]:5000/app", "docker", "latest", None, None)),
        (f"docker://host/app@{X}", ("host/app", "docker", None, X, None)),
        (f"docker://host/app:1@{X}", ("host/app", "docker", None, X, None)),
        ("https://host/a.tar", ("https://host/a.tar", None, None, None, None)),
        ("HTTP://host:80/a.tar:1", ("HTTP://host:80/a.tar", None, "1", None, None)),
        ("https://[::1]:8443/d/a.tar:app:1", ("https://[::1]:8443/d/a.tar", None, "app:1", None, None)),
        ("https://host/a.tar:host:5000/app:1", ("https://host/a.tar", None, "host:5000/app:1", None, None)),
        ("https://host/a%3Ab.tar?x=%3A:1", ("https://host/a%3Ab.tar?x=%3A", None, "1", None, None)),
        ("https://host/@scope/a.tar", ("https://host/@scope/a.tar", None, None, None, None)),
        (f"https://host:1/a.tar@{X}", ("https://host:1/a.tar", None, None, X, None)),
        ("https://host/a.tar:@1", ("https://host/a.tar", None, None, None, 1)),
        ("oci-archive:http://host/a:1", ("http://host/a", "oci-archive", "1", None, None)),
        ("docker-archive:http://host/a:@0", ("http://host/a", "docker-archive", None, None, 0)),
        ("docker-daemon:app", ("app", "docker-daemon", None, None, None)),
        ("docker-daemon:host:5000/app:1", ("host:5000/app:1", "docker-daemon", None, None, None)),
        (f"docker-daemon:{X}", (str(X), "docker-daemon", None, None, None)),
        ("containers-storage:[vfs@/g+/r:a=b]app:1", ("[vfs@/g+/r:a=b]app:1", "containers-storage", None, None, None)),
    ],
)
def test_parse(text: str, expected: tuple[object, ...]) -> None:
    reference = parse(text)
    assert (
        reference.path,
        reference.transport,
        reference.tag,
        reference.digest,
        reference.position,
    ) == expected
    assert reference.text == text
    assert str(reference).isprintable()


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("dir", "/etc"),
        ("dir:1.0", "/etc"),
        ("dir", "/"),
        ("dir:1.0", "/with:colon:/and slash"),
        ("dir:", "/etc"),
        ("dir:host:5000/app:1", "/etc"),
        ("dir:@2", "/etc"),
        ("dir~1", "/etc"),
        ("dir:1.0~12", "/etc"),
        (f"dir@{X}", "/etc"),
        (f"dir@{X}~1", "/etc"),
        ("/dir:1.0", "/etc"),
        ("missing", "/etc"),
        ("missing:1", "/etc"),
        ("/missing", "/etc"),
        ("odd:path", "/etc"),
        ("odd:path:1", "/etc"),
        ("odd:path:2", "/etc"),
        ("at@sha256:path", "/etc"),
        ("slash:/path", "/etc"),
        ("slash:/path:1", "/etc"),
        ("oci:dir", "/etc"),
        ("oci:/dir", "/etc"),
        ("oci:/dir:1~2", "/etc"),
        ("oci:/missing", "/etc"),
        ("oci-archive:a.tar:1", "/etc"),
        ("docker-archive:a.tar:app:1", "/etc"),
        ("docker-archive:a.tar:@0", "/etc"),
        ("docker://app", "/etc"),
        ("docker://host:5000/name:tag", "/etc"),
        ("docker://[::1]:5000/app", "/etc:/usr"),
        (f"docker://host/app:1@{X}~1", "/etc"),
        ("https://host/a.tar", "/etc"),
        ("https://host:8443/~user/a.tar:app:1~2", "/etc:/usr"),
        (f"oci-archive:http://[::1]:80/a.tar@{X}", "/etc"),
        ("docker-daemon:app:1", "/etc"),
        ("containers-storage:[overlay@/g+/r]app:1", "/etc"),
    ],
)
def test_a_path_in_the_image_follows_a_colon(reference: str, path: str) -> None:
    assert split_path(f"{reference}:{path}", {*EXISTING, "slash:/path"}.__contains__) == (reference, path)


@pytest.mark.parametrize(
    "text",
    [
        "dir",
        "dir:1.0",
        "odd:path",
        "slash:/path",
        "slash:/path:1",
        "dir:etc/passwd",
        "oci:/dir",
        "oci:/missing:1",
        ":/etc",
        "docker://host:5000/name:tag",
        "docker-daemon:/etc",
        "tarball:/a.tar:/etc",
        "https://host:80",
        "ftp://host/image:/etc",
        "",
    ],
)
def test_other_references_have_no_path_in_the_image(text: str) -> None:
    assert split_path(text, {*EXISTING, "slash:/path"}.__contains__) == (text, None)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", NotFoundError, "no such file or directory: ''"),
        ("dir:1:/etc", UnsupportedError, "'/etc' is a path in the image: name a whole image here"),
        ("docker://app:/etc", UnsupportedError, "'/etc' is a path in the image: name a whole image here"),
        ("missing", NotFoundError, "'missing'; .* in a registry, write docker://docker.io/library/missing$"),
        ("missing:1", NotFoundError, "'missing'; .* write docker://docker.io/library/missing:1$"),
        ("a/b:1~2", NotFoundError, "'a/b'; .* write docker://docker.io/a/b:1~2$"),
        ("quay.io/a/b:1", NotFoundError, "'quay.io/a/b'; .* write docker://quay.io/a/b:1$"),
        ("localhost:5000/b:1", NotFoundError, "write docker://localhost:5000/b:1$"),
        (f"missing@{X}", NotFoundError, f"'missing'; .* write docker://docker.io/library/missing@{X}$"),
        ("./missing:1", NotFoundError, "'./missing'; an image in a registry is written docker://HOST/REPOSITORY:TAG"),
        ("missing\x1b[2J", NotFoundError, r"missing\\x1b\[2J"),
        ("missing\udcff", NotFoundError, r"missing\\xff"),
        ("nul\0", NotFoundError, r"nul\\x00"),
        (":1", NotFoundError, "''"),
        ("oci:", NotFoundError, "no such file or directory: ''$"),
        ("oci:missing:1", NotFoundError, "'missing'$"),
        ("dir:odd:x:/etc", UnsupportedError, "'/etc' is a path in the image"),
        ("docker-archive:missing:1", NotFoundError, "'missing'$"),
        ("dir:", NotFoundError, "empty tag"),
        ("dir@sha256:../../x", NotFoundError, "no such file"),
        ("dir@sha256:abc", InvalidImageError, "malformed sha256 digest 'sha256:abc'"),
        (f"dir@{str(X).upper()}", InvalidImageError, "malformed digest"),
        ("dir@md5:00", UnsupportedError, "unsupported digest algorithm 'md5'"),
        ("docker://", InvalidImageError, "malformed name of an image in a registry: write docker://HOST"),
        ("docker://host/App:1", InvalidImageError, "the repository in lower case"),
        ("docker://host/app:", InvalidImageError, "malformed name"),
        ("docker://user:s3cr3t@host/app", InvalidImageError, "(?!.*s3cr3t)malformed name .* credentials by --creds"),
        ("docker://host/../app", InvalidImageError, "malformed name"),
        ("docker://host/app?x=1", InvalidImageError, "malformed name"),
        ("docker://host/app@sha256:abc", InvalidImageError, "malformed sha256 digest"),
        ("docker://host/app\n", InvalidImageError, "malformed name"),
        ("containers-storage:", NotFoundError, "names no image: write containers-storage:NAME"),
        ("docker-daemon:", NotFoundError, "names no image: write docker-daemon:NAME"),
        ("docker-daemon:app:/etc", UnsupportedError, "'/etc' is a path in the image"),
        ("sif:/missing", UnsupportedError, "not supported"),
        ("ftp://example/app", UnsupportedError, "write docker://HOST/REPOSITORY for an image in a registry"),
        ("https://example", InvalidImageError, "names no archive: .* docker://HOST/REPOSITORY"),
        ("https://u:s3cr3t@example/:1", InvalidImageError, "(?!.*s3cr3t)the URL names no archive"),
        ("https://example/a.tar:", NotFoundError, "the URL ends in an empty tag"),
        ("https://example/a.tar@sha256:00", InvalidImageError, "malformed sha256 digest"),
        ("https://example/a.tar:/etc", UnsupportedError, "'/etc' is a path in the image"),
    ],
)
def test_refused(text: str, error: type[OcifsError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dir~1", ("dir", None, None, 1)),
        ("dir:1.0~2", ("dir", "1.0", None, 2)),
        ("dir:a~b", ("dir", "a~b", None, 0)),
        ("dir:a~", ("dir", "a~", None, 0)),
        (f"oci:dir@{X}~10", ("dir", None, X, 10)),
        ("dir~1:1", ("dir~1", "1", None, 0)),
        ("dir~1~2", ("dir~1", None, None, 2)),
        ("backup~1", ("backup~1", None, None, 0)),
        ("docker://host/app:1~2", ("host/app", "1", None, 2)),
        ("https://host/~u/a.tar~2", ("https://host/~u/a.tar", None, None, 2)),
        ("https://host/a.tar:1~2", ("https://host/a.tar", "1", None, 2)),
        ("docker-daemon:app:1~2", ("app:1", None, None, 2)),
    ],
)
def test_without_the_last_layers(text: str, expected: tuple[object, ...]) -> None:
    exists = {"dir", "backup~1", *(["dir~1"] if expected[0] == "dir~1" else [])}.__contains__
    reference = parse_reference(text, exists)
    assert (reference.path, reference.tag, reference.digest, reference.without) == expected
    assert reference.text == text


@pytest.mark.parametrize(
    ("text", "same", "pinned"),
    [
        ("dir", "{}/dir", f"{{}}/dir@{X}"),
        ("dir:1.0", "{}/dir:1.0", f"{{}}/dir@{X}"),
        ("/dir:1.0", "/dir:1.0", f"/dir@{X}"),
        ("odd:path:2", "{}/odd:path:2", f"{{}}/odd:path@{X}"),
        (f"oci:dir@{X512}", f"oci:{{}}/dir@{X512}", f"oci:{{}}/dir@{X}"),
        ("oci:oci:oci", "oci:{}/oci:oci", f"oci:{{}}/oci@{X}"),
        ("docker-archive:a.tar:@1", "docker-archive:{}/a.tar:@1", f"docker-archive:{{}}/a.tar@{X}"),
        ("https://host/a.tar:1", "https://host/a.tar:1", f"https://host/a.tar@{X}"),
        ("containers-storage:dir", "containers-storage:dir", "containers-storage:dir"),
    ],
)
def test_with_an_absolute_path(text: str, same: str, pinned: str) -> None:
    reference, directory = parse(text), os.getcwd()
    assert reference.absolute() == same.format(directory)
    assert reference.absolute(X) == pinned.format(directory)


def test_names_that_registries_conf_resolves() -> None:
    def known(name: str, suffix: str) -> tuple[str, bool]:
        return f"host/team/{name}", True

    found = parse_reference("debian:12~1", EXISTING.__contains__, known)
    assert found == parse_reference("docker://host/team/debian:12~1")
    assert parse_reference("debian", EXISTING.__contains__, known).tag == "latest"
    assert parse_reference(f"debian@{X}", EXISTING.__contains__, known).digest == X
    assert parse_reference("dir:12", EXISTING.__contains__, known).path == "dir"
    with pytest.raises(UnsupportedError):
        parse_reference("sif:debian", EXISTING.__contains__, known)


@given(st.text(alphabet="dir:@oci-/sha256.~\0\udcff\n", max_size=30))
def test_any_text_ends_in_a_reference_or_one_error(text: str) -> None:
    with suppress(OcifsError):
        reference = parse(text)
        assert not reference.is_path or reference.path in EXISTING


def test_the_file_system_tells_which_paths_exist(tmp_path: object) -> None:
    assert parse_reference(f"{tmp_path}:1").path == str(tmp_path)
    with pytest.raises(NotFoundError):
        parse_reference(f"{tmp_path}/\0")


@pytest.mark.parametrize(
    ("tag", "positions"),
    [
        ("host:5000/a/app:1", [0]),
        ("a/app:1", [0]),
        ("app:1", [0]),
        ("1", [0, 1]),
        ("latest", [2]),
        ("pp:1", []),
        ("", []),
        ("host:5000/a", []),
    ],
)
def test_matching(tag: str, positions: list[int]) -> None:
    names = [("host:5000/a/app:1",), ("other:1", "2"), ("latest",), ("x:latest",), ()]
    assert matching(tag, names) == positions
