import os
import pwd
from pathlib import Path

import pytest

from ocifs.errors import UnsupportedError
from ocifs.id_ranges import mapped
from ocifs.imagestore.ids import ranges_of

ROOT = pwd.getpwuid(0)


def etc(place: Path, subuid: str, subgid: str | None = None) -> Path:
    (place / "subuid").write_text(subuid)
    (place / "subgid").write_text(subuid if subgid is None else subgid)
    return place


def test_the_user_is_root_and_subordinate_ids_follow(tmp_path: Path) -> None:
    ranges = ranges_of("root", "subuid", etc(tmp_path, "x:1:2\nroot:100000:10\n0:300000:5\n", "root:500:7\n"))
    assert ranges.uids == ((0, 0, 1), (1, 100000, 10), (11, 300000, 5))
    assert ranges.gids == ((0, ROOT.pw_gid, 1), (1, 500, 7))
    assert (ranges.user, ranges.kind) == ("root", "subuid")
    assert ranges_of("0", "subuid", tmp_path) == ranges


@pytest.mark.parametrize(
    ("number", "found"), [(0, 1000), (1, 100000), (10, 100009), (11, None), (20, 7), (2**32 - 1, None)]
)
def test_an_id_in_the_image_has_one_on_this_machine(number: int, found: int | None) -> None:
    assert mapped(number, ((0, 1000, 1), (1, 100000, 10), (20, 7, 1))) == found


@pytest.mark.parametrize("line", ["", "root:1\n", "root:-5:10\n", "root:1:0\n", "root:4294967290:10\n", "toor:1:2\n"])
def test_a_user_without_subordinate_ids(tmp_path: Path, line: str) -> None:
    with pytest.raises(UnsupportedError, match=r"user root has no subordinate ids in .*: add some with `usermod"):
        ranges_of("root", "idmap", etc(tmp_path, line))


def test_neither_file_exists(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="has no subordinate ids"):
        ranges_of(None, "subuid", tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("user", ["no-such-user", "99999999999999999999"])
def test_an_unknown_user(tmp_path: Path, user: str) -> None:
    with pytest.raises(UnsupportedError, match=f"there is no user {user}"):
        ranges_of(user, "idmap", tmp_path)
