"""Each row of the table of blemishes of a config in docs/cli.md has tests, which are listed here."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_CONFIG, _VOLUMES = "bundle/test_config.py", "bundle/test_volumes.py"

TESTS: dict[str, list[tuple[str, str]]] = {
    "a member or label that is unknown": [(_CONFIG, "odd_members_without_an_effect_are_no_blemish")],
    "a label without a name": [(_CONFIG, "odd_members_without_an_effect_are_no_blemish"), (_CONFIG, "annotations")],
    "a variable twice": [(_CONFIG, "env")],
    "an entry of `Env` without `=`": [(_CONFIG, "a_variable_that_is_none_is_skipped")],
    '`Entrypoint: [""]`': [(_CONFIG, "an_entrypoint_of_one_empty_word_is_none")],
    "`Cmd` null or empty": [(_CONFIG, "args"), (_CONFIG, "nothing_to_run_is_an_error")],
    "a command whose first word is empty": [(_CONFIG, "nothing_to_run_is_an_error")],
    "`WorkingDir` or a volume that is relative": [
        (_CONFIG, "a_relative_or_escaping_working_directory_is_taken_from_the_root"),
        (_VOLUMES, "a_relative_or_escaping_volume_is_taken_from_the_root"),
    ],
    "`WorkingDir` that the image does not have": [
        ("bundle/test_mount_destinations.py", "a_working_directory_that_is_none"),
        ("bundle/test_mount_destinations.py", "what_is_missing_must_be_made_by_the_runtime"),
    ],
    "volume `/`": [(_VOLUMES, "a_volume_that_comes_to_be_the_root_is_skipped")],
    "a volume at or below `/proc`": [(_VOLUMES, "volumes_that_cannot_be_are_skipped")],
    "a volume whose value is null": [("spec/test_config.py", "members_of_a_set_may_be_null")],
    "no `os`": [
        (_CONFIG, "an_image_for_no_system_is_taken_to_be_for_linux"),
        (_CONFIG, "an_image_for_another_system_is_refused"),
    ],
    "`architecture` of another machine": [
        ("bundle/test_machine.py", "does_not_run_here"),
        ("containers/test_run.py", "an_image_for_another_machine_is_said_to_be_so"),
    ],
    "a NUL character": [
        (_CONFIG, "a_command_with_a_nul_character_is_an_error"),
        (_CONFIG, "a_working_directory_with_a_nul_character_is_an_error"),
        (_VOLUMES, "a_nul_character_is_an_error"),
    ],
    "a member of the wrong type": [("spec/test_config.py", "malformed")],
}
"""Tests by the beginning of a row: file, and name without `test_`."""


def rows() -> list[str]:
    """Return the first column of the table."""
    text = (_ROOT / "docs/cli.md").read_text()
    table = text[text.index("\n| the config has | result |\n") :].split("\n\n", 1)[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in table.strip().splitlines()[2:]]


def test_every_row_has_tests_and_every_entry_a_row() -> None:
    """In the order of the table."""
    assert len(rows()) == len(TESTS)
    assert [row for row, begin in zip(rows(), TESTS, strict=True) if not row.startswith(begin)] == []


@pytest.mark.parametrize("row", TESTS)
def test_the_tests_of_a_row_exist(row: str) -> None:
    for file, name in TESTS[row]:
        assert re.search(rf"^def test_{name}\(", (_ROOT / "tests" / file).read_text(), re.MULTILINE), (file, name)
