"""The page of silent bugs says what the tests say."""

from tests.silent_bugs import NOT_BUILT, PAGE, ROWS, marked, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.silent_bugs"


def test_every_row_that_a_test_names_exists() -> None:
    known = {row for rows in ROWS.values() for row in rows}
    assert {row: tests for row, tests in marked().items() if row not in known} == {}
    assert set(NOT_BUILT) <= known


def test_the_comment_of_a_test_is_found_over_several_lines() -> None:
    """The mark stands at the end of a signature that may be broken."""
    tests = marked()
    assert "tests/algorithms/test_ppo.py::test_values_do_not_depend_on_the_temperature" in tests["K2"]
    assert "tests/algorithms/test_dpo.py::test_begins_at_ln_2_and_learns_the_preference" in tests["K9"]
