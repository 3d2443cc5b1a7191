"""Tables and progress bars on a terminal of 80 columns, which this process pretends to have."""

import contextlib
import io
import random
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from rich.cells import cell_len

from ocifs.cli.mount_table import mount_lines
from ocifs.cli.verbs import run
from ocifs.mount.counters import Numbers
from ocifs.mount.record import KeptRecord, ListedMount, MountedLayer
from ocifs.report.text import fitted
from tests.images import Image, Layer, write_layout
from tests.tars import file, tar


class _Screen(io.TextIOWrapper):
    """A terminal that keeps what it shows."""

    def __init__(self) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", self.bytes.getvalue().decode())


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


def shown(*words: str) -> tuple[str, str]:
    """Return what a command writes to stdout and to stderr, both of them terminals."""
    out, err = _Screen(), _Screen()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(list(words), None)
    assert status == 0, err.text
    return out.text, err.text


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of 6 MiB with long names, two files with equal content, and one that a layer replaces."""
    name = b"directory/" * 8
    layers = (
        Layer(tar([file(name + b"one", bytes(3 << 20)), file(name + b"two", b"same"), file(b"three", b"same")])),
        Layer(tar([file(name + b"one", bytes(range(256)) * (12 << 10))])),
    )
    tag = "registry.example.com:5000/" + "team/" * 20 + "app:1"
    return str(write_layout(tmp_path_factory.mktemp("wide") / "image", Image(layers, tag=tag)))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--cache-dir", str(tmp_path_factory.mktemp("cache"))]


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (["index"], r"  [0-9a-f]{12}  .* -> 3 MiB  +3 entries +\d+ spans?  index +\S+ B$"),
        (["inspect", "--all"], r"^regis\S*…\S*app:1 +linux/\w+ +sha256:[0-9a-f]{12} +2 +\S+ KiB$"),
        (["history"], r"^ +1  sha256:[0-9a-f]{12} "),
        (["waste", "--duplicates"], r"^ +3 MiB +0  replaced by 1  /dir\S*…\S*/one$"),
    ],
)
def test_a_table_fits(image: str, cache: list[str], words: Sequence[str], table: str) -> None:
    lines = shown(*words, *cache, image)[0].splitlines()
    assert any(re.search(table, line) for line in lines), lines
    rows = [
        line for line in lines if not line.startswith(("as dive", "  (all", "image ", image)) and "hidden, " not in line
    ]
    assert [line for line in rows if cell_len(line) > 80] == []


def test_the_cache_is_listed_in_a_table_that_fits(image: str, cache: list[str]) -> None:
    shown("ls", *cache, image)
    lines = shown("cache", "ls", *cache)[0].splitlines()
    assert any(line.startswith("tree") for line in lines)
    assert [line for line in lines if cell_len(line) > 80] == []


def mount(**changes: object) -> ListedMount:
    layer = MountedLayer(
        blob=f"sha256:{1:064}", diff_id=f"sha256:{2:064}", verified_at=None, spans=7, index="soci-v2 x"
    )
    numbers = dict.fromkeys(Numbers.__struct_fields__, 0) | {"latency": (), "errors": {}, "restarts": 12}
    made = ListedMount(
        image="docker://registry.example.com/" + "team/" * 20 + "app:1",
        digest=f"sha256:{3:064}",
        mountpoint="/srv/" + "mounts/" * 20 + "here",
        engine="erofs",
        pid=4194304,
        since=0.0,
        reason="a reason " * 20,
        layers=(layer,),
        state="restarting",
        numbers=msgspec.convert(numbers, Numbers),
        kept=KeptRecord(keeper=1, counters="", state=0, began=0.0, dormant=True),
    )
    return msgspec.structs.replace(made, **changes)


@pytest.mark.parametrize("width", [80, 109, 110, 140])
@pytest.mark.parametrize("refuted", [None, "why"])
def test_mounts_are_listed_in_a_table_that_fits(width: int, refuted: str | None) -> None:
    lines = list(mount_lines([mount(refuted=refuted), mount(bundle="/b")], width, verbose=True))
    assert [line for line in lines if cell_len(line) > width] == []
    text = " ".join(" ".join(lines).split())
    assert f"restarts: 12, {'refuted' if refuted else 'unverified'}" in text
    assert "idle" in text
    assert "each of 7 spans whenever it is decoded; index soci-v2 x" in text


def test_without_a_terminal_nothing_is_cut() -> None:
    _, row, *notes = mount_lines([mount()], None, verbose=False)
    assert "/mounts/mounts/" in row
    assert "restarting, restarts: 12, unverified" in row
    assert notes == []


def test_elastic_columns_share_the_room() -> None:
    (row,) = fitted([["a" * 60, "b" * 30, "fixed"]], 60, elastic=(0, 1))
    assert sum(map(len, row)) + 4 == 60


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two images, one of them with 6 MiB in two layers."""
    place = tmp_path_factory.mktemp("pair")
    files = [file(b"%d" % each, random.Random(each).randbytes(1 << 20)) for each in range(6)]
    layers = (Layer(tar(files[:3])), Layer(tar([file(b"0", bytes(3 << 19)), *files[3:]])))
    others = [file(b"%d" % each, random.Random(100 + each).randbytes(1 << 20)) for each in range(6)]
    one = write_layout(place / "image", Image(layers))
    return {"IMAGE": one, "OTHER": write_layout(place / "other", Image((Layer(tar(others)),)))}


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (["index", "IMAGE"], "indexing"),
        (["waste", "IMAGE"], "looking for hidden files"),
        (["waste", "--duplicates", "IMAGE"], "looking for duplicates"),
        (["verify", "IMAGE"], "verifying"),
        (["export", "--to-tar", "OUT/tar", "IMAGE"], "exporting"),
        (["export", "--to-dir", "OUT/tree", "IMAGE"], "exporting"),
        (["cp", "-r", "IMAGE", "/", "OUT/copy"], "copying"),
        (["grep", "nothing", "IMAGE"], "searching"),
        (["diff", "IMAGE", "OTHER"], "comparing"),
    ],
)
def test_work_that_takes_time_has_a_bar(
    pair: dict[str, Path], tmp_path: Path, words: Sequence[str], label: str
) -> None:
    """Percentage, bytes done and in total; the total is that of what is read, at most all layers once."""
    places = {**pair, "OUT": tmp_path}
    typed = [re.sub("IMAGE|OTHER|OUT", lambda match: str(places[match[0]]), word) for word in words]
    err = _Screen()
    with contextlib.redirect_stdout(_Screen()), contextlib.redirect_stderr(err):
        run([typed[0], "--cache-dir", str(tmp_path / "cache"), *typed[1:]], None)
    bars = re.findall(rf"{label}.*?(\d+)% +[\d.]+ (?:B|[KM]iB) of +([\d.]+) MiB", err.text)
    assert bars, err.text
    assert all(0 <= int(percent) <= 100 and float(total) < (16 if "OTHER" in words else 8) for percent, total in bars)
