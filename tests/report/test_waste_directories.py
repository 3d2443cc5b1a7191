"""Hidden files grouped by the directories that account for most of their bytes."""

import random

import pytest

from ocifs.report.waste import Hidden
from ocifs.report.waste_directories import by_directory


def hidden(*files: tuple[str, int]) -> list[Hidden]:
    return [Hidden(size, path.encode(), 0, 1, "removed") for path, size in files]


@pytest.mark.parametrize(
    ("files", "groups"),
    [
        ([], []),
        ([("/f", 5)], [("/", 5, 1)]),
        ([("/a/b/c/f", 5)], [("/a/b/c", 5, 1)]),
        ([("/a/f", 5), ("/a/b/g", 7)], [("/a/b", 7, 1), ("/a", 5, 1)]),
        # small directories count in the one above, however deep
        (
            [("/a/big", 1000), *((f"/a/doc/{number}/deep/copyright", 2) for number in range(20))],
            [("/a", 1000, 1), ("/a/doc", 40, 20)],
        ),
        ([("/a/big", 1000), ("/a/doc/x/f", 1), ("/b/c/f", 1)], [("/a", 1001, 2), ("/", 1, 1)]),
        # a name that continues another is another directory; "-" sorts before "/"
        ([("/lib/x/f", 3), ("/lib-a/f", 2), ("/lib/f", 1)], [("/lib/x", 3, 1), ("/lib-a", 2, 1), ("/lib", 1, 1)]),
    ],
)
def test_groups(files: list[tuple[str, int]], groups: list[tuple[str, int, int]]) -> None:
    found = by_directory(hidden(*files))
    assert [(group.path.decode(), group.size, len(group.files)) for group in found] == groups


def test_each_file_is_in_one_group_above_it_and_groups_are_few() -> None:
    numbers = random.Random(7)
    names = ["a", "a-", "b", "ab"]
    files = hidden(
        *(
            ("/" + "/".join(numbers.choices(names, k=numbers.randint(0, 6))) + f"/{number}", numbers.randint(1, 99))
            for number in range(2000)
        )
    )
    files = [each._replace(path=each.path.replace(b"//", b"/")) for each in files]
    found = by_directory(files)
    assert sorted(each for group in found for each in group.files) == sorted(files)
    assert len(found) <= 41
    assert [group.size for group in found] == sorted((group.size for group in found), reverse=True)
    paths = {group.path for group in found}
    for group in found:
        assert [each.size for each in group.files] == sorted((each.size for each in group.files), reverse=True)
        for each in group.files:
            above = each.path.rpartition(b"/")[0]
            while above and above not in paths:
                above = above.rpartition(b"/")[0]
            assert (above or b"/") == group.path


def test_bytes_by_layer() -> None:
    (group,) = by_directory(
        [Hidden(5, b"/f", 2, 3, "removed"), Hidden(7, b"/g", 0, 3, "replaced"), Hidden(1, b"/h", 0, 2, "removed")]
    )
    assert group.stored() == {0: 8, 2: 5}
    assert group.layers() == {0: 8, 2: 6, 3: 12}


def test_a_deep_tree_takes_no_longer_than_its_names() -> None:
    deep = b"/d" * 5000
    files = [Hidden(1, b"%b/%d/f" % (deep, number), 0, 1, "removed") for number in range(200)]
    (group,) = by_directory(files)
    assert group.path == deep
