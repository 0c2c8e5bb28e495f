"""Passwords within addresses: masked whatever they look like, and nothing else is touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.addresses import MASK, without_passwords


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql+psycopg://u:p%40ss@h:5432/d?host=/run", "postgresql+psycopg://u:***@h:5432/d?host=/run"),
        ("postgresql://u:p@ss@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p?x@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p/q@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p@h/d?options=a@b", "postgresql://u:***@h/d?options=a@b"),
        ("postgresql://u@/d?password=p&host=h&sslpassword=q", "postgresql://u@/d?password=***&host=h&sslpassword=***"),
        ("'postgresql://u:p@h/d' and http://u:p@h/v1", "'postgresql://u:***@h/d' and http://u:***@h/v1"),
        ("mysql://u:p@h/d", "mysql://u:***@h/d"),
    ],
)  # fmt: skip
def test_a_password_is_masked(given: str, shown: str) -> None:
    assert without_passwords(given) == shown
    assert without_passwords(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u@h:5432/d",
        "postgresql://h:5432/d and somebody@example.org",
        "http://127.0.0.1:8000/v1#MODEL@main",
        "sqlite:////data/a:b@c.db",
        "runs/first/prefloop.db",
        "a:b@c",
    ],
)
def test_what_has_no_password_stays(text: str) -> None:
    assert without_passwords(text) == text


def test_settings_are_masked_within() -> None:
    settings = {"run": {"store": "postgresql://u:p@h/d", "seed": 1}, "chat": ("http://u:p@h/v1#m", None)}
    assert without_passwords(settings) == {
        "run": {"store": "postgresql://u:***@h/d", "seed": 1},
        "chat": ["http://u:***@h/v1#m", None],
    }


@given(st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="@"), min_size=6))
def test_no_password_is_left_in_a_text(password: str) -> None:
    assert password not in without_passwords(f"see postgresql://u:{password}@h/d now").replace(MASK, "")
