"""An objective without its equation, its properties, its tiny task and its place among the oracles is not finished."""

import importlib

import pytest

from bench.oracles.cases import CASES, ONLY_HERE
from prefloop.losses.objectives import OBJECTIVES
from tests.tiny_tasks import LEVELS, solve

from .audit import PROPERTIES
from .objectives import LISTWISE, PAIRWISE, STEPWISE, UNARY
from .test_tabular_offline import OPTIMA


def test_every_objective_has_its_equation_written_again():
    assert {*PAIRWISE, *LISTWISE, *UNARY, *STEPWISE} | {"beta_dpo"} == set(OBJECTIVES)


def test_every_objective_has_a_property_that_can_fail():
    assert set(PROPERTIES) == set(OBJECTIVES)
    for name, properties in PROPERTIES.items():
        assert properties, name
        for each in properties:
            module, _, function = each.test.partition(".")
            assert callable(getattr(importlib.import_module(f"tests.losses.{module}"), function)), each
            assert each.says


def test_every_objective_starts_at_a_formula_or_depends_on_the_data():
    unchecked = {name for name, each in OBJECTIVES.items() if each.start is None}
    free = {name for name, each in OBJECTIVES.items() if not each.needs.reference}
    assert unchecked == free | {"lipo_lambda"}  # its ranks are the policy's own, all equal at the start


def test_every_objective_has_a_tiny_task():
    assert set(LEVELS) == set(OBJECTIVES)
    assert set(OPTIMA) <= set(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_tiny_task_is_solved(name: str):
    """The first of the three seeds of `python -m tests.tiny_tasks`."""
    outcome = solve(name, 0)
    assert outcome.gain >= LEVELS[name].gain
    assert outcome.agreement >= LEVELS[name].agreement


def test_every_objective_is_beside_another_packages_or_said_to_be_alone():
    words = {word.strip(" ,()") for case in CASES for word in case.name.split()}
    words |= {word.strip(" ,()") for text in ONLY_HERE for word in text.replace(",", " ").split()}
    alone = {name for name in OBJECTIVES if name.startswith("gpo_") or OBJECTIVES[name].data == "rankings"}
    assert set(OBJECTIVES) - words - alone == set()
