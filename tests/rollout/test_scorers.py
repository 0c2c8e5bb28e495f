import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prefloop.errors import InputError
from prefloop.records import Message, Prompt
from prefloop.rollout import checked, load_function

PROMPTS = [Prompt(content="Tell me a joke " * 20), Prompt(content=(Message(role="user", content="hi"),))]
TEXTS = ["why", "because"]


def returning(result: object):
    return checked(lambda prompts, completions: result, name="mine:f")  # pyright: ignore[reportArgumentType, reportReturnType]


@pytest.mark.parametrize(
    "result",
    [
        [0.0, 1.5],
        (0, 1.5),
        np.array([0.0, 1.5]),
        torch.tensor([0.0, 1.5]),
        [np.float32(0), torch.tensor(1.5)],
        iter([False, 1.5]),
    ],
)
def test_numbers_of_any_kind_are_taken(result: object):
    assert returning(result)(PROMPTS, TEXTS) == [0.0, 1.5]


def test_zero_is_a_value():  # C7
    assert returning([0.0, 0])(PROMPTS, TEXTS) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0], "mine:f returned 1 values for 2 completions"),
        ([1.0, 2.0, 3.0], "mine:f returned 3 values for 2 completions"),
        (None, "mine:f returned None of type NoneType; it must return a sequence of 2 numbers"),
        (1.0, "mine:f returned 1.0 of type float"),
        ("12", "mine:f returned '12' of type str"),
        ({0: 1.0, 1: 2.0}, "of type dict"),
        ([0.5, math.nan], "mine:f returned nan for item 1"),
        ([-math.inf, 0.5], "mine:f returned -inf for item 0"),
        ([0.5, None], "mine:f returned None of type NoneType for item 1"),
        ([0.5, "0.5"], "mine:f returned '0.5' of type str for item 1"),
        ([0.5, 1j], "of type complex for item 1"),
        ([[0.5], [1.0]], r"mine:f returned \[0.5\] of type list for item 0"),
        (
            np.ones((2, 1)),
            r"mine:f returned an array of shape \[2, 1\]; it must return a sequence of 2 numbers",
        ),
        (
            torch.ones(2, 2),
            r"mine:f returned an array of shape \[2, 2\]; it must return a sequence of 2 numbers",
        ),
        (
            torch.tensor([0.5, 1.0]).mean(),
            r"mine:f returned an array of shape \[\]; it must return a sequence of 2",
        ),
        ({0.5, 1.0}, "of type set"),
        (
            (1 / 0 for _ in range(2)),
            r"mine:f raised ZeroDivisionError: division by zero \(.*test_scorers.py:\d+\)",
        ),
        ([np.float32("nan"), 1.0], "for item 0"),
        ([torch.tensor(float("inf")), 1.0], "for item 0"),
        ([10**400, 1.0], "of type int for item 0"),
    ],
)
def test_anything_else_is_refused_by_name(result: object, message: str):  # C10
    with pytest.raises(InputError, match=message):
        returning(result)(PROMPTS, TEXTS)


def test_the_message_shows_the_start_of_the_prompt():
    with pytest.raises(InputError) as raised:
        returning([math.nan, 0.0])(PROMPTS, TEXTS)
    assert "(prompt 'Tell me a joke Tell me a joke " in str(raised.value)
    assert len(str(raised.value)) < 250
    assert "\n" not in str(raised.value)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module, as the current one."""
    (tmp_path / "my_rewards.py").write_text(
        "import my_words\n"
        "def length(prompts, completions):\n"
        "    return [my_words.count(c) for c in completions]\n"
        "def lazy(prompts, completions):\n"
        "    import my_late_words\n"
        "    return [my_late_words.VALUE] * len(completions)\n"
        "limit = 3\n"
    )
    (tmp_path / "my_words.py").write_text("def count(text):\n    return len(text.split())\n")
    (tmp_path / "my_late_words.py").write_text("VALUE = 2\n")
    (tmp_path / "my_broken.py").write_text("import a_package_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    for name in ("my_rewards", "my_words", "my_late_words", "my_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("project")
def test_functions_in_the_current_folder_are_found():
    assert load_function("my_rewards:length")(PROMPTS, ["one two", ""]) == [2.0, 0.0]
    assert load_function("my_rewards:lazy")(PROMPTS, TEXTS) == [2.0, 2.0]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_rewards", "'my_rewards' is not of the form module:function"),
        (":length", "is not of the form module:function"),
        ("my_rewards:", "is not of the form module:function"),
        ("C:my_rewards:length", "is not of the form module:function"),
        ("my_rewrads:length", "there is no module 'my_rewrads' in "),
        ("my_rewards.inner:length", "there is no module|is not a package"),
        ("my_broken:length", "importing 'my_broken' failed because 'a_package_nobody_has' is not installed"),
        ("my_rewards:lenght", "has no 'lenght'; did you mean 'length'"),
        ("my_rewards:zzz", "has no 'zzz'; it has: length, lazy"),
        ("my_rewards:limit", "is a int, not a function"),
    ],
)
def test_a_bad_name_says_which_part_is_wrong(spec: str, message: str):
    with pytest.raises(InputError, match=message):
        load_function(spec)


def test_the_projects_folder_does_not_hide_installed_packages_later(project: Path):
    load_function("my_rewards:length")
    assert sys.path[-1] == str(project)
    assert sys.path.count(str(project)) == 1


@pytest.mark.usefixtures("project")
def test_an_error_inside_the_function_names_its_line():
    Path("my_rewards.py").write_text("def f(prompts, completions):\n    return 1 / 0\n")
    with pytest.raises(
        InputError, match=r"my_rewards:f raised ZeroDivisionError: division by zero \(.*my_rewards\.py:2\)"
    ) as raised:
        load_function("my_rewards:f")(PROMPTS, TEXTS)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", r"importing 'my_rewards' raised SyntaxError: .*my_rewards\.py:1\)"),
        ("\nraise OSError('no\\ndisk')\n", r"raised OSError: no disk \(.*my_rewards\.py:2\)"),
    ],
)
def test_an_error_while_the_module_is_imported_names_its_line(text: str, message: str):
    Path("my_rewards.py").write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        load_function("my_rewards:f")
    assert "\n" not in str(raised.value)


def test_a_function_by_its_file(project: Path, tmp_path: Path):
    assert load_function("my_rewards.py:length")(PROMPTS, ["one two", ""]) == [2.0, 0.0]
    assert load_function(f"{tmp_path}/my_rewards.py:length")(PROMPTS, ["one two", ""]) == [2.0, 0.0]
    with pytest.raises(InputError, match=r"reward function 'gone.py:f': there is no file .*gone.py"):
        load_function("gone.py:f")
