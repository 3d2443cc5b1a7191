"""URLs from outside become values that can be sent, or one error."""

import pytest

from ocifs.errors import RegistryError
from ocifs.sources.registry.url import Url, parse_url

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "url", "sent"),
    [
        ("http://host", Url("http", "host", 80), "http://host/"),
        ("HTTPS://Host.Example:8443/A?b=C#d", Url("https", "host.example", 8443, "/A?b=C"), None),
        ("https://host:443/a", Url("https", "host", 443, "/a"), "https://host/a"),
        ("https://host:/a", Url("https", "host", 443, "/a"), "https://host/a"),
        ("http://host?a=b", Url("http", "host", 80, "/?a=b"), "http://host/?a=b"),
        ("http://10.0.0.1:0080/", Url("http", "10.0.0.1", 80), "http://10.0.0.1/"),
        ("http://[::1]:5000/", Url("http", "[::1]", 5000), "http://[::1]:5000/"),
        ("http://[fe80::1%25eth0]/", Url("http", "[fe80::1%25eth0]", 80), None),
        ("http://a_b.example./", Url("http", "a_b.example.", 80), None),
        ("http://me:p@ss@host/", Url("http", "host", 80, "/", "me:p@ss"), "http://host/"),
        ("http://host/a b/é?ü=%20", Url("http", "host", 80, "/a%20b/%C3%A9?%C3%BC=%20"), None),
    ],
)
def test_parsed(text: str, url: Url, sent: str | None) -> None:
    assert parse_url(text, "x") == url
    assert str(url) == sent or sent is None
    assert parse_url(str(url), "x").origin == url.origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host/path",
        "//host/path",
        "ftp://host/",
        "http:host",
        "http://",
        "http:///path",
        "http://:80/",
        "http://a..b/",
        "http://.a/",
        "http://ho st/",
        "http://h\u00f6st/",
        "http://ho%73t/",
        "http://host\\@other/",
        f"http://{'a' * 64}.example/",
        f"http://{'a.' * 127}example/",
        "http://[::1/",
        "http://::1/",
        "http://[]/",
        "http://[1.2.3.4]/",
        "http://[::1]x/",
        "http://[::1%25]/",
        "http://host:0/",
        "http://host:65536/",
        "http://host:99999/",
        "http://host:-1/",
        "http://host:+80/",
        "http://host:8_0/",
        "http://host:\u0661/",
        f"http://host:{'0' * 5000}1/",
        f"http://host:{'1' * 5000}/",
        "http://host/\n",
        "http://host/a\r\nX: y",
        "http://host/\0",
        "http://host/\x7f",
        f"http://host/{'a' * 70_000}",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(RegistryError, match=r"^x redirects to an unusable URL: ") as caught:
        parse_url(text, "x redirects to")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("/x", "https://host:8443/x"),
        ("x?y", "https://host:8443/v2/app/x?y"),
        ("?y", "https://host:8443/v2/app/?y"),
        ("//other/x", "https://other/x"),
        ("https://other", "https://other/"),
        ("blobs/sha256:abc", "https://host:8443/v2/app/blobs/sha256:abc"),
        ("/\u00c3\u00a9", "https://host:8443/%C3%A9"),  # UTF-8, as http.client decodes it
    ],
)
def test_references_are_relative_to_the_url_of_the_answer(reference: str, url: str) -> None:
    assert str(parse_url("https://host:8443/v2/app/", "x").follow(reference, "x")) == url


@pytest.mark.parametrize("reference", ["//[", "http://[::1/", "https://other:99999/", "file:///etc/passwd", "\n"])
def test_references_that_are_malformed(reference: str) -> None:
    with pytest.raises(RegistryError, match=r"^x names an unusable URL: "):
        parse_url("https://host/", "x").follow(reference, "x names")


def test_references_never_lead_from_https_to_http() -> None:
    with pytest.raises(RegistryError, match=r"^x redirects to other:81 without encryption: refused$"):
        parse_url("https://host/", "x").follow(f"http://other:81/?signature={SECRET}", "x redirects to")


def test_neither_credentials_nor_signatures_are_shown() -> None:
    url = parse_url(f"https://me:{SECRET}@host/a?signature={SECRET}", "x")
    assert SECRET not in repr(url)
    assert SECRET not in repr([url])
