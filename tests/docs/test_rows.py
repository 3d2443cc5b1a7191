"""Each row of some tables has tests, which are listed here: a row without one, or a test with another name, fails."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_CONFIG, _VOLUMES = "bundle/test_config.py", "bundle/test_volumes.py"
_USERS, _SERVICE, _CONNECTION = (
    "mounted/test_other_users.py",
    "service/test_other_users.py",
    "service/test_connection.py",
)

Rows = dict[str, list[tuple[str, str]]]
"""Tests by the beginning of a row, in the order of the table: file, and name without `test_`."""

CONFIG: Rows = {
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

USERS: Rows = {
    "reads files of a mount": [(_USERS, "reads_a_mount_as_far_as_its_engine_and_the_modes_allow")],
    "sees that there is a mount": [(_USERS, "sees_that_there_is_a_mount_but_not_as_one_of_its_own")],
    "unmounts it": [(_USERS, "cannot_unmount"), (_USERS, "cannot_mount_over_it")],
    "keeps it busy": [(_USERS, "can_keep_a_mount_busy_until_it_is_detached")],
    "uses the service of root": [
        (_SERVICE, "they_are_out_of_reach"),
        (_SERVICE, "the_service_closes_a_connection_at_once"),
    ],
    "makes root's commands use another listener": [
        (_CONNECTION, "not_one_that_another_user_chooses"),
        (_USERS, "cannot_choose_the_service_of_root"),
    ],
    "looks into root's podman store": [(_USERS, "cannot_look_into_a_podman_store_or_have_root_use_theirs")],
    "uses root's snapshotter": [(_USERS, "cannot_ask_a_snapshotter_or_have_root_use_their_directory")],
    "makes root's commands wait": [
        (_USERS, "a_fifo_in_place_of_credentials_blocks_no_command"),
        (_CONNECTION, "a_file_system_of_another_user_blocks_no_command"),
    ],
    "ends the daemon": [(_USERS, "cannot_end_the_daemon_or_look_into_it")],
    "reads the cache": [(_USERS, "cannot_read_the_cache_the_records_or_the_log")],
    "makes root use a forged cache": [(_USERS, "cannot_forge_a_cache_that_root_uses")],
    "owns a directory": [(_USERS, "a_cache_in_which_one_directory_is_the_user_s_is_not_used")],
    "owns an entry": [(_USERS, "an_entry_of_the_user_s_is_made_anew")],
    "replaces the cache": [(_USERS, "exchanging_the_cache_after_it_was_opened_changes_nothing")],
    "chooses root's runtime directory": [(_USERS, "cannot_choose_the_runtime_directory")],
    "makes root execute a program": [(_USERS, "cannot_have_root_run_a_program_of_theirs")],
    "replaces a bundle": [(_USERS, "root_makes_no_bundle_where_the_user_could_exchange_it")],
    "makes root remove files": [(_USERS, "cannot_have_root_remove_files_by_a_symlink_in_place_of_a_bundle")],
    "adds a line": [(_USERS, "cannot_put_anything_in_the_list_of_mounts")],
    "makes root's `ocifs cache clear`": [(_USERS, "cannot_have_root_delete_their_choice_of_files_as_a_cache")],
    "takes the name": [(_USERS, "can_take_the_runtime_directory_of_a_user_without_a_session_which_is_noticed")],
}
TABLES = {("cli.md", "the config has"): CONFIG, ("security.md", "an ordinary user"): USERS}
"""By the document and the head of the first column."""


def rows(document: str, head: str) -> list[str]:
    """Return the first column of a table."""
    text = (_ROOT / "docs" / document).read_text()
    table = text[text.index(f"\n| {head} |") :].split("\n\n", 1)[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in table.strip().splitlines()[2:]]


@pytest.mark.parametrize("table", TABLES)
def test_every_row_has_tests_and_every_entry_a_row(table: tuple[str, str]) -> None:
    found = rows(*table)
    assert [row for row in found if not row.startswith(tuple(TABLES[table]))] == []
    assert len(found) == len(TABLES[table])
    places = [next(place for place, row in enumerate(found) if row.startswith(begin)) for begin in TABLES[table]]
    assert all(before < after for before, after in pairwise(places))


@pytest.mark.parametrize("table", TABLES)
def test_the_tests_of_the_rows_exist(table: tuple[str, str]) -> None:
    named = {each for tests in TABLES[table].values() for each in tests}
    sources = {file: (_ROOT / "tests" / file).read_text() for file, _ in named}
    assert [each for each in named if not re.search(rf"^def test_{each[1]}\(", sources[each[0]], re.MULTILINE)] == []
