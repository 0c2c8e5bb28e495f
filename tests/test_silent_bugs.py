"""The page of silent bugs says what the tests say."""

import re

from tests.silent_bugs import MARK, NOT_BUILT, PAGE, REPOSITORY, ROWS, marked, page


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


def test_no_mark_is_written_so_that_it_is_not_found() -> None:
    """A comma between two rows, or words behind them, and a test would be missing from the page."""
    lost = [
        f"{file.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for file in sorted((REPOSITORY / "tests").rglob("test_*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"#[^\"']*\b[MNKCDR]\d+\b", line) and not MARK.search(line)
    ]
    assert lost == []


def test_every_row_has_a_test_or_says_why_not() -> None:
    rows = {row for rows in ROWS.values() for row in rows}
    assert rows - marked().keys() - NOT_BUILT.keys() == set()


def test_rows_are_numbered_without_a_gap() -> None:
    """Each kind has a letter of its own; a row that is taken out would leave tests that name nothing."""
    letters = [next(iter(rows))[0] for rows in ROWS.values()]
    assert len(set(letters)) == len(letters)
    assert letters[:6] == list("MNKCDR")
    for letter, rows in zip(letters, ROWS.values(), strict=True):
        assert list(rows) == [f"{letter}{number}" for number in range(1, len(rows) + 1)]
