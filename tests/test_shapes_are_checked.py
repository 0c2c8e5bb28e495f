"""The shapes that annotations promise are checked in every module while tests run; without this, the annotations would be comments."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable

import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

import prefloop
from prefloop.losses import Moments, masked_sum
from prefloop.models.head import Head, token_statistics
from prefloop.models.packing import pack
from prefloop.rollout.draw import inverse_cdf
from prefloop.text.groups import Group
from tests.conftest import checked

BATCH = pack(
    [Group(prompt=[1, 2], completions=([3, 4], [5]), masks=([True, True], [True]))]
)  # two completions, longest two


def test_every_module_is_loaded_with_checks() -> None:
    """One imported before the hook was installed, by a plugin say, would not be."""
    plain = []
    for found in pkgutil.walk_packages(prefloop.__path__, "prefloop."):
        if found.name.endswith("__main__") or ".migrations" in found.name:  # they do their work when imported
            continue
        spec = importlib.import_module(found.name).__spec__
        if spec is None or type(spec.loader).__name__ != "_JaxtypingLoader":
            plain.append(found.name)
    assert plain == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: masked_sum(torch.zeros(2, 3), torch.ones(3, 2, dtype=torch.bool)),
        lambda: masked_sum(torch.zeros(2, 3), torch.ones(2, 3)),
        lambda: inverse_cdf(torch.ones(2, 3), torch.ones(3)),
        lambda: Moments(count=torch.zeros(2), sum=torch.zeros(()), sum_of_squares=torch.zeros(())),
        lambda: Moments.of(torch.zeros(2, 3), torch.ones(2, dtype=torch.bool)),
        lambda: dataclasses.replace(BATCH, completion_mask=BATCH.completion_mask.float()),
        lambda: dataclasses.replace(BATCH, completion_mask=BATCH.completion_mask[:, :1]),
        lambda: dataclasses.replace(BATCH, group=BATCH.group[:1]),
        lambda: dataclasses.replace(BATCH, targets=BATCH.targets[:1]),
    ],
    ids=["shape", "kind", "axis", "field", "classmethod", "mask's kind", "mask's width", "group", "targets"],
)
def test_a_wrong_shape_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(BeartypeCallHintViolation):
        wrong()


def test_rows_and_targets_must_be_as_many() -> None:
    head = Head(weight=torch.zeros(7, 4), bias=torch.zeros(0))
    with pytest.raises(BeartypeCallHintViolation):
        token_statistics(
            torch.zeros(3, 4), head, torch.zeros(2, dtype=torch.long), temperature=1.0
        )  # two targets for three rows


def test_a_call_like_one_that_passed_is_looked_at_again() -> None:
    """Arguments of the same shapes may give a result of another; and a function within a function is made anew, with the same code."""

    def made() -> Callable[..., Tensor]:
        @jaxtyping.jaxtyped(typechecker=checked)
        def longer(x: Float[Tensor, " n"], more: int = 0) -> Float[Tensor, " n"]:
            return torch.zeros(len(x) + more)

        return longer

    assert made()(torch.zeros(3)).shape == made()(x=torch.zeros(3)).shape == (3,)
    for longer in (made(), made()):
        for wrong in ({"more": 1}, {"more": 2}):
            with pytest.raises(BeartypeCallHintViolation):
                longer(torch.zeros(3), **wrong)
        with pytest.raises(BeartypeCallHintViolation):
            longer(x=torch.zeros(3), more=1)
        with pytest.raises(BeartypeCallHintViolation):
            longer(torch.zeros(3, 1))
        with pytest.raises(BeartypeCallHintViolation):
            longer(torch.zeros(3, dtype=torch.long))
