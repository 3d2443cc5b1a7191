"""hosts.toml, as containerd documents it: the endpoints it stands for, what is requested, and what is refused."""

import os
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocifs.errors import OcifsError, RegistryError
from ocifs.sources.reference import parse_reference
from ocifs.sources.registry.access import Access
from ocifs.sources.registry.configuration import Endpoint
from ocifs.sources.registry.hosts import host_endpoints, unknown_fields
from ocifs.sources.registry.source import RegistrySource, find_endpoints, open_registry
from ocifs.sources.registry.timeouts import Timeouts
from tests.images import MANIFEST, Image, digest, layout_files, to_json
from tests.registry import Registry, basic, redirect, running, status

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = "pull push resolve"


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    return tmp_path / "certs.d"


def write(hosts: Path, registry: str, text: str) -> Path:
    path = hosts / registry / "hosts.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def shown(endpoint: Endpoint) -> str:
    """Return the form of a request to it, and its capabilities."""
    settings = endpoint.settings
    scheme = "http" if settings.http_only else "http(s)" if endpoint.insecure else "https"
    ns = f"?ns={settings.namespace}" if settings.namespace else ""
    verify = "" if endpoint.certificates is None or endpoint.certificates.verify else " unverified"
    url = f"{scheme}://{endpoint.address}{settings.root}/{endpoint.repository}{ns}"
    return f"{url} {' '.join(sorted(settings.capabilities))}{verify}"


def places(hosts: Path, name: str, *, tls_verify: bool | None = None) -> list[str]:
    return [shown(each) for each in host_endpoints(hosts, name, tls_verify=tls_verify) or []]


DOCUMENTED = {
    "default": (
        'server = "https://docker.io"\n[host."https://registry-1.docker.io"]\n  capabilities = ["pull", "resolve"]',
        [
            "https://registry-1.docker.io/v2/library/app pull resolve",
            f"https://registry-1.docker.io/v2/library/app {ALL}",
        ],
    ),
    "local mirror": (
        """
        server = "https://registry-1.docker.io"
        [host."https://public-mirror.example.com"]
          capabilities = ["pull"]
        [host."https://docker-mirror.internal"]
          capabilities = ["pull", "resolve"]
        """,
        [
            "https://public-mirror.example.com/v2/library/app?ns=docker.io pull",
            "https://docker-mirror.internal/v2/library/app?ns=docker.io pull resolve",
            f"https://registry-1.docker.io/v2/library/app {ALL}",
        ],
    ),
    "without TLS verification": (
        """
        server = "https://registry-1.docker.io"
        [host."http://192.168.31.250:5000"]
          capabilities = ["pull", "resolve", "push"]
          skip_verify = true
        """,
        [
            f"http(s)://192.168.31.250:5000/v2/library/app?ns=docker.io {ALL} unverified",
            f"https://registry-1.docker.io/v2/library/app {ALL}",
        ],
    ),
    "paths": (
        """
        [host."https://non-compliant.example/v2/upstream"]
          override_path = true
        [host."https://mirror.example/hub/"]
        [host."https://done.example/hub/v2/"]
        [host."https://bare.example/"]
          override_path = true
        [host."no-scheme.example:5000"]
        """,
        [
            f"https://non-compliant.example/v2/upstream/library/app?ns=docker.io {ALL}",
            f"https://mirror.example/hub/v2/library/app?ns=docker.io {ALL}",
            f"https://done.example/hub/v2/library/app?ns=docker.io {ALL}",
            f"https://bare.example/library/app?ns=docker.io {ALL}",
            f"https://no-scheme.example:5000/v2/library/app?ns=docker.io {ALL}",
            f"https://registry-1.docker.io/v2/library/app {ALL}",
        ],
    ),
    "only the mirror": (
        'server = "https://registry.example.com"',
        [f"https://registry.example.com/v2/library/app?ns=docker.io {ALL}"],
    ),
    "settings of the server itself": (
        'capabilities = ["PULL"]\nskip_verify = true',
        ["https://registry-1.docker.io/v2/library/app pull unverified"],
    ),
    "plain HTTP": (
        '[host."http://mirror.example"]\n[host."http://mirror.example:80"]\nskip_verify = true',
        [
            f"http://mirror.example/v2/library/app?ns=docker.io {ALL}",
            f"http://mirror.example/v2/library/app?ns=docker.io {ALL} unverified",
            f"https://registry-1.docker.io/v2/library/app {ALL}",
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), DOCUMENTED.values(), ids=DOCUMENTED)
def test_documented_files(hosts: Path, text: str, expected: list[str]) -> None:
    write(hosts, "docker.io", text)
    assert places(hosts, "docker.io/library/app") == expected


def test_the_directory_of_a_registry(hosts: Path) -> None:
    for name in ("_default", "host.example:5000", "other.example_5000_"):
        write(hosts, name, f'server = "https://{name.strip("_").partition(":")[0].partition("_")[0]}.is"')
    (hosts / "empty.example").mkdir()
    write(hosts, "blank.example", "  \n")
    names = "host.example:5000 other.example:5000 host.example [::1]:5000 empty.example blank.example"
    chosen = {
        name: places(hosts, f"{name}/app")[0].partition("/v2")[0].removeprefix("https://") for name in names.split()
    }
    assert chosen == {
        "host.example:5000": "host.example.is",
        "other.example:5000": "other.example.is",
        "host.example": "default.is",
        "[::1]:5000": "default.is",
        "empty.example": "empty.example",
        "blank.example": "blank.example",
    }
    assert host_endpoints(hosts / "missing", "docker.io/app") is None


def test_certificates(hosts: Path, tmp_path: Path) -> None:
    (tmp_path / "absolute.pem").write_text("A")
    path = write(
        hosts,
        "docker.io",
        f"""
        [host."https://one.example"]
          ca = "ca.pem"
          client = "both.pem"
        [host."https://many.example"]
          ca = ["{tmp_path}/absolute.pem", "ca.pem"]
          client = [["one.cert", "one.key"], ["both.pem", ""], "both.pem"]
        """,
    )
    for name in ("ca.pem", "both.pem", "one.cert", "one.key"):
        (path.parent / name).write_text(name)
    one, many, _ = host_endpoints(hosts, "docker.io/library/app") or []
    assert one.certificates is not None
    assert many.certificates is not None
    both = (str(path.parent / "both.pem"), "both.pem\n")
    assert one.certificates.authorities == ((str(path.parent / "ca.pem"), "ca.pem\n"),)
    assert one.certificates.clients == (both,)
    assert [text for _, text in many.certificates.authorities] == ["A\n", "ca.pem\n"]
    assert many.certificates.clients == ((str(path.parent / "one.cert"), "one.cert\none.key\n"), both, both)


def test_certificates_without_a_file_as_docker_names_them(hosts: Path) -> None:
    directory = hosts / "registry.example"
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_text("CA")
    (found,) = host_endpoints(hosts, "registry.example/app") or []
    assert found.certificates is not None
    assert found.certificates.authorities == ((str(directory / "ca.crt"), "CA"),)


def test_timeouts_headers_and_proxies(hosts: Path) -> None:
    write(
        hosts,
        "docker.io",
        """
        [host."https://a.example"]
          dial_timeout = "1m1.5s"
          proxy = "http://user:secret@proxy.example:3128"
          [host."https://a.example".header]
            x-custom-1 = "custom header"
            Authorization = ["Bearer secret", "part b"]
        """,
    )
    found, _ = host_endpoints(hosts, "docker.io/library/app") or []
    assert found.settings.connect == 61.5
    assert found.settings.headers == (("x-custom-1", "custom header"), ("Authorization", "Bearer secret, part b"))
    assert found.settings.proxy == "http://user:secret@proxy.example:3128"
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("tls_verify", "expected"),
    [
        (True, ["https://a.example:5000", "https://b.example", "https://c.example:5000"]),
        (False, ["http://a.example:5000 unv", "http(s)://b.example unv", "http(s)://c.example:5000 unv"]),
    ],
)  # fmt: skip
def test_tls_verify_on_the_command_line_counts(hosts: Path, tls_verify: bool, expected: list[str]) -> None:
    text = '[host."http://a.example:5000"]\n[host."https://b.example"]\nskip_verify = true\n'
    write(hosts, "registry.example", text + '[host."http://c.example:5000"]\nskip_verify = true')
    found = places(hosts, "registry.example/app", tls_verify=tls_verify)
    assert [
        each.replace(f"/v2/app?ns=registry.example {ALL}", "").replace("unverified", "unv") for each in found[:-1]
    ] == expected


BAD = [
    ("server = ", "Invalid value"),
    ("server = 5", "Expected `str`, got `int` - at"),
    ("host = []", "Expected `object`, got `array`"),
    ('[host."https://a"]\ncapabilities = "pull"', "Expected `array`, got `str`"),
    ('[host."https://a"]\ncapabilities = ["fly"]', "unknown capability 'fly': write pull, resolve or push"),
    ('[host."https://a"]\ncapabilities = ["\\u001b[2J"]', "unknown capability"),
    ('[host."https://a"]\nca = 1', "got `int`"),
    ('[host."https://a"]\nca = "missing.pem"', "hosts.toml names: No such file or directory"),
    ('[host."https://a"]\nca = "."', "Is a directory"),
    ('[host."https://a"]\nclient = [["a", "b", "c"]]', "length 2, got 3"),
    ('[host."https://a"]\nskip_verify = "yes"', "Expected `bool"),
    ('[host."https://a"]\nheader = {"a b" = "1"}', "'a b' cannot be set as a header"),
    ('[host."https://a"]\nheader = {Content-Length = "1"}', "'Content-Length' cannot be set as a header"),
    ('[host."https://a"]\nheader = {A = "x\\r\\nB: y"}', "header A is too long, or is not printable ASCII"),
    ('[host."https://a"]\nheader = {A = 1}', "got `int`"),
    ('[host."https://a"]\ndial_timeout = "soon"', "dial_timeout 'soon' is not a duration: write it as 5s"),
    ('[host."https://a"]\ndial_timeout = "0s"', "more than 0 and up to 1h"),
    ('[host."https://a"]\nproxy = "socks5://p:1"', "no SOCKS proxies"),
    ('[host."https://a"]\nproxy = "http://p/x"', "must have no path"),
    ('[host."ftp://a"]', "it is not http://HOST or https://HOST"),
    ('[host."https://a b"]', "its host is neither a name nor an address"),
    ('[host."https://user:s3cr3t@a"]', "it must end after the path, and have no user name"),
    ('[host."https://a?b=c"]', "it must end after the path"),
    ('server = "https://a:99999"', "port 99999 is not a number from 1 to 65535"),
    ("\n".join(f'[host."https://a{n}"]' for n in range(33)), "more than 32 hosts"),
    ("a = " + "[" * 5000 + "]" * 5000, "cannot use"),
    ("#" * (1 << 20) + "#", "larger than 1048576 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD)
def test_refused(hosts: Path, text: str, message: str) -> None:
    write(hosts, "docker.io", text)
    with pytest.raises(OcifsError, match=re.escape(message)) as failed:
        host_endpoints(hosts, "docker.io/library/app")
    assert "\n" not in str(failed.value)
    assert "\x1b" not in str(failed.value)
    assert "s3cr3t" not in str(failed.value)


def test_refused_bytes(hosts: Path) -> None:
    write(hosts, "docker.io", "").write_bytes(b'server = "\xff"')
    with pytest.raises(OcifsError, match="'utf-8' codec"):
        host_endpoints(hosts, "docker.io/library/app")


def test_a_fifo_blocks_nobody(hosts: Path) -> None:
    path = write(hosts, "docker.io", "")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OcifsError, match="not a regular file"):
        host_endpoints(hosts, "docker.io/library/app")


def test_keys_that_ocifs_does_not_know(hosts: Path) -> None:
    path = write(hosts, "docker.io", 'skip-verify = true\n[host."https://a"]\nserver = "b"\nca = []')
    assert unknown_fields(path.parent) == ["skip-verify", "server"]


@pytest.fixture
def conf(alone: Path) -> Path:
    path = alone / ".config/containers/registries.conf"
    path.parent.mkdir(parents=True)
    return path


def test_registries_conf_counts_for_other_registries_and_blocks_all(hosts: Path, conf: Path) -> None:
    conf.write_text(
        '[[registry]]\nlocation = "bad.example"\nblocked = true\n[[registry]]\nlocation = "quay.io"\n'
        '[[registry.mirror]]\nlocation = "near.example/quay"'
    )
    write(hosts, "bad.example", 'server = "https://elsewhere.example"')
    write(hosts, "docker.io", 'server = "https://hub.example"')
    access = Access(hosts_dir=hosts)

    def found(name: str) -> list[str]:
        return [str(each) for each in find_endpoints(parse_reference(f"docker://{name}"), access)]

    assert found("docker.io/app:1") == ["hub.example/library/app"]
    assert found("quay.io/app:1") == ["near.example/quay/app", "quay.io/app"]
    with pytest.raises(OcifsError, match=r"blocked by registries\.conf"):
        found("bad.example/app:1")


def mirrored(hosts: Path, mirror: Registry, more: str = "") -> Access:
    write(hosts, "registry.example", f'server = "{mirror.base}"\n[host."{mirror.base}/hub"]\n{more}')
    return Access(hosts_dir=hosts, credentials="me:secret")


def test_what_a_mirror_is_asked(hosts: Path, registry: Registry) -> None:
    """A path, the namespace, headers; and no credentials that are meant for the registry."""
    registry.add("app", layout_files(Image(tag="1")))
    registry.fault(redirect(registry.base + "/v2/app/manifests/1"), "^/hub/v2/app/manifests/1")
    access = mirrored(hosts, registry, f'[host."{registry.base}/hub".header]\nX-Key = "k"')
    with closing(open_registry(parse_reference("docker://registry.example/app:1"), access)) as source:
        source.resolve(parse_reference("docker://registry.example/app:1"))
    (first, second) = registry.requests
    assert first.path == "/hub/v2/app/manifests/1?ns=registry.example"
    assert [each.headers.get("x-key") for each in (first, second)] == ["k", "k"]
    assert "authorization" not in first.headers


def test_headers_and_credentials_stay_with_the_host(hosts: Path, registry: Registry) -> None:
    registry.add("app", layout_files(Image(tag="1")))
    with running(address="localhost") as mirror:
        mirror.fault(redirect(registry.base + "/v2/app/manifests/1"), "manifests")
        access = mirrored(hosts, mirror, 'header = {X-Key = "k", Authorization = "Bearer b"}')
        with closing(open_registry(parse_reference("docker://registry.example/app:1"), access)) as source:
            source.resolve(parse_reference("docker://registry.example/app:1"))
        assert mirror.requests[0].headers["authorization"] == "Bearer b"
    (asked,) = registry.requests
    assert not {"x-key", "authorization"} & set(asked.headers)


def test_a_mirror_that_may_only_pull(hosts: Path, registry: Registry) -> None:
    """It is not asked for a tag, and gets no artifact."""
    registry.add("app", layout_files(Image(tag="1")))
    access = mirrored(hosts, registry, 'capabilities = ["pull"]')
    with closing(open_registry(parse_reference("docker://registry.example/app:1"), access)) as source:
        (image,) = source.resolve(parse_reference("docker://registry.example/app:1"))
        assert source.tags() == ["1"]
        source.list_referrers(image, "none")
    asked = [request.path.partition("?")[0] for request in registry.requests]
    tag = str(image.digest).replace(":", "-")
    assert [path.removeprefix("/hub/v2/app/") for path in asked if path.startswith("/hub")] == [
        f"referrers/{image.digest}",
        f"manifests/{tag}",
    ]


@pytest.mark.parametrize("capability", ["pull", "resolve", "push"])
def test_a_capability_that_no_host_has(hosts: Path, registry: Registry, capability: str) -> None:
    registry.add("app", layout_files(Image(tag="1")))
    others = sorted({"pull", "resolve", "push"} - {capability})
    write(hosts, registry.host, f"capabilities = {others}".replace("'", '"'))
    reference = parse_reference(f"docker://{registry.host}/app:1")
    uses: dict[str, Callable[[RegistrySource], object]] = {
        "resolve": lambda source: source.resolve(reference),
        "pull": lambda source: source.open(source.resolve(reference)[0]),
        "push": lambda source: source.put("2", [], []),
    }
    with closing(open_registry(reference, Access(hosts_dir=hosts))) as source:
        with pytest.raises(RegistryError, match=rf"hosts\.toml allows no host to {capability} app: add it"):
            uses[capability](source)


def test_an_index_that_only_the_registry_has(hosts: Path, registry: Registry) -> None:
    """A mirror answers that it has no referrers; blobs still come from the mirror first."""
    registry.add("app", layout_files(Image(tag="1")))
    registry.add("hub/app", layout_files(Image(tag="1")))
    write(hosts, registry.host, f'[host."{registry.base}/v2/hub"]\noverride_path = true')
    reference = parse_reference(f"docker://{registry.host}/app:1")
    with closing(open_registry(reference, Access(hosts_dir=hosts))) as source:
        (image,) = source.resolve(reference)
        document = {"mediaType": MANIFEST, "artifactType": "a/b", "subject": {"digest": str(image.digest)}}
        registry.blobs["app"][digest(to_json(document))] = to_json(document)
        assert [each.artifact_type for each in source.list_referrers(image, "a/b")] == ["a/b"]
        source.open(image).pread(1, 0)
    assert registry.requests[-1].path.startswith("/v2/hub/app/manifests/")


def test_the_next_host_is_tried(hosts: Path, registry: Registry) -> None:
    registry.add("app", layout_files(Image(tag="1")))
    registry.fault(status(500), "^/down", times=1000)
    registry.fault(basic("someone", "else"), "^/closed")
    write(
        hosts,
        registry.host,
        f'[host."{registry.base}/down"]\n[host."{registry.base}/closed"]\n[host."http://127.0.0.1:1"]',
    )
    reference = parse_reference(f"docker://{registry.host}/app:1")
    access = Access(hosts_dir=hosts, timeouts=Timeouts(operation=0.05, first_operation=0.05, pause=0.01))
    with closing(open_registry(reference, access)) as source:
        assert source.resolve(reference)
