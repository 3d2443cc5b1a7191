import pytest

from ocifs.errors import NotFoundError
from ocifs.spec.platform import Platform, best_match


@pytest.mark.parametrize("text", ["linux/amd64", "linux/arm/v7", "windows/amd64", "linux/arm64/v8"])
def test_parse(text: str) -> None:
    assert str(Platform.parse(text)) == text


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "linux//v7", "a/b/c/d", "linux/a\x1bb", "linux/a b"])
def test_malformed(text: str) -> None:
    with pytest.raises(NotFoundError, match="malformed platform"):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("machine", "platform"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("riscv64", "linux/riscv64"),
        ("s390x", "linux/s390x"),
        ("ppc64le", "linux/ppc64le"),
        ("loongarch64", "linux/loong64"),
    ],
)
def test_of_machine(machine: str, platform: str) -> None:
    assert str(Platform.of_machine(machine)) == platform


@pytest.mark.parametrize(
    ("wanted", "offered", "best"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
        ("linux/x86_64", ["linux/amd64"], 0),
        ("LINUX/AMD64", ["linux/amd64"], 0),
        ("linux/amd64", ["windows/amd64"], None),
        ("linux/amd64", ["linux/386"], None),
        ("linux/amd64", ["linux/amd64/v2"], None),
        ("linux/amd64", ["linux/amd64/v1"], 0),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/arm64", ["linux/arm64/v8"], 0),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm64/8", ["linux/arm64"], 0),
        ("linux/aarch64", ["linux/arm64"], 0),
        ("linux/arm64", ["linux/arm/v8"], None),
        ("linux/arm", ["linux/arm/v7"], 0),
        ("linux/arm", ["linux/arm/v5", "linux/arm/v6"], 1),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/armhf", ["linux/arm/v7"], 0),
        ("linux/arm/odd", ["linux/arm/odd"], 0),
        ("linux/s390x", ["linux/amd64"], None),
        ("linux/s390x", [], None),
    ],
)
def test_best_match(wanted: str, offered: list[str], best: int | None) -> None:
    assert best_match(Platform.parse(wanted), [Platform.parse(each) for each in offered]) == best


def test_an_empty_platform_can_be_shown() -> None:
    assert str(Platform()) == "unknown/unknown"
