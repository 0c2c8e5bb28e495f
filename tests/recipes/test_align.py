"""`prefloop plan` on a tiny model: what is looked at, chosen, parted and said."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.configs.align import Preferences
from prefloop.configs.common import Compute, LoRA
from prefloop.data.split import position
from prefloop.errors import InputError
from prefloop.recipes.align import cost, decide
from prefloop.recipes.align.cost import Machine, Model, RowCounts, shape_of
from prefloop.recipes.align.estimate import estimates
from prefloop.recipes.align.look import look, rendered, template_line
from prefloop.recipes.align.parts import JUDGE, MEASURE, Parts
from prefloop.recipes.align.run import plan
from prefloop.recipes.align.screen import screen
from prefloop.recipes.align.stages import PREFERRING, rate, stages
from prefloop.records import Prompt
from tests.recipes.align_project import CPU, make_project, planned

MACHINE = Machine(
    layer=1e11, head=8e10, copy=1e10, read=1e-10, row=4e-12, start=1e-6, bfloat16=0.5, threads=1, device="cpu"
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and comparisons in which the longer reply is chosen."""
    return make_project(tmp_path_factory.mktemp("align"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is always the same, and not measured."""
    monkeypatch.setattr(decide, "measure", lambda *_, **__: MACHINE)


def test_the_machine_is_measured_in_about_a_second(project: Path) -> None:
    # As wide as a real model, of whose weights few are held; of a tiny one's, tens of thousands.
    machine = cost.measure(replace(shape_of(str(project / "model"), CPU), width=256, inner=1024), CPU)
    assert min(machine.layer, machine.head, machine.copy, machine.bfloat16) > 0
    assert 0 < machine.start < 1e-3


def test_weights_are_counted_without_loading_them(project: Path) -> None:
    shape = shape_of(str(project / "model"), CPU)
    d, f, layers = 16, 24, 1
    assert shape.trunk == layers * (4 * d * d + 3 * d * f)
    assert shape.adapter == layers * (4 * (d + d) + 3 * (d + f))
    assert shape.weights == shape.trunk + shape.vocabulary * d + (2 * layers + 1) * d
    assert (shape.width, shape.inner, shape.keys) == (d, f, 2 * d)


def test_a_forward_pass_is_counted_as_the_architecture_page_says() -> None:
    """With rates for products alone, a pass takes 2 P N and 2 M V d operations."""
    shape = cost.Shape(
        name="",
        weights=0,
        trunk=1000,
        adapter=0,
        layers=0,
        width=8,
        inner=8,
        keys=8,
        vocabulary=50,
        positions=9,
    )
    model = Model(shape=shape, machine=replace(MACHINE, copy=float("inf")), rank=0, item=4, base=0.0)
    rows = RowCounts(prompts=3, completions=2, prompt_tokens=5, completion_tokens=7)
    assert rows.tokens == 3 * 5 + 3 * 2 * 7
    assert model.forward(rows) == pytest.approx(2 * 1000 * 57 / 1e11 + 2 * 42 * 50 * 8 / 8e10)
    assert model.learn(rows) == pytest.approx(6 * 1000 * 57 / 1e11 + 8 * 42 * 50 * 8 / 8e10)
    frozen = replace(model, rank=4)
    assert frozen.learn(rows) == pytest.approx(4 * 1000 * 57 / 1e11 + 6 * 42 * 50 * 8 / 8e10)


def test_parts_share_no_prompt_and_no_held_out_part_is_empty() -> None:
    prompts = [Prompt(content=f"question {i}") for i in range(3000)]
    parts = Parts(own_judge=True)
    counts = dict.fromkeys(("policy", "judge", "measure"), 0)
    curves = {"policy": 0, "judge": 0}
    for prompt in prompts:
        name = parts.of(prompt)
        counts[name] += 1
        held = parts.policy_heldout if name == "policy" else parts.judge_heldout
        if name in curves and position(prompt) < held:
            curves[name] += 1
    assert counts["policy"] == pytest.approx(3000 * JUDGE, rel=0.1)
    assert counts["judge"] == pytest.approx(3000 * (MEASURE - JUDGE), rel=0.1)
    assert curves["policy"] == pytest.approx(0.1 * counts["policy"], rel=0.3)
    assert curves["judge"] == pytest.approx(0.1 * counts["judge"], rel=0.3)
    assert {Parts(own_judge=False).of(prompt) for prompt in prompts} == {"policy", "measure"}


@pytest.mark.usefixtures("measured")
def test_the_screen_says_what_will_be_done(project: Path) -> None:
    decided = plan(planned(project, method=("dpo", "ppo"), eval_prompts=5))
    text = screen(decided)
    assert "by ann" in text
    assert "all 7.02 thousand weights" in text  # of its few weights all are trained
    assert "float32: bfloat16 multiplies 0.5 times as fast" in text
    assert [line.split()[0] for line in text.splitlines()[-6:]] == [
        "judge",
        "reward",
        "dpo",
        "ppo",
        "evaluate",
        "all",
    ]
    assert len(text.splitlines()) < 24
    assert {each.stage for each in decided.estimates} == {"judge", "reward", "dpo", "ppo", "evaluate"}
    assert all(each.cost.seconds > 0 and each.cost.mib > 0 for each in decided.estimates)


def test_a_rendered_row_marks_what_is_trained(project: Path) -> None:
    seen = look(planned(project))
    first = seen.example
    text = rendered(seen)
    before, _, trained = text.partition("⟦")
    assert before.replace("⏎", "\n") == str(seen.tokenizer.decode(list(first.prompt)))
    assert trained.replace("⏎", "\n") == str(seen.tokenizer.decode(list(first.completions[0]))) + "⟧"
    assert "ends with" in template_line(seen)


def test_budgets_hold_most_rows_and_the_rest_is_counted(project: Path) -> None:
    seen = look(planned(project))
    whole = sum(len(part) for part in seen.parts.values())
    assert seen.lengths.max_completion % 32 == 0
    data = Preferences(
        source=str(project / "pairs.jsonl"), max_completion_tokens=round(1.2 * seen.lengths.completion)
    )
    less = look(planned(project, data=data))
    left = sum(len(part) for part in less.parts.values())
    (count,) = (n for why, n in less.left_out.items() if why.startswith("longer than"))
    assert left + count == whole + sum(seen.left_out.values())


@pytest.mark.usefixtures("measured")
def test_less_time_takes_less_of_everything(project: Path) -> None:
    everything = plan(planned(project))
    least = sum(
        each.cost.seconds
        for each in estimates(
            stages(
                planned(project),
                everything.seen,
                decide.shrunk(everything.sizes, 0.0),
                everything.choice,
                Path("x"),
            ),
            decide.shrunk(everything.sizes, 0.0),
            everything.seen.lengths,
            Model(shape=everything.seen.shape, machine=MACHINE, rank=0, item=4, base=decide.held_mib()),
            judge=True,
        )
    )
    with pytest.raises(InputError, match="the smallest useful run takes"):
        plan(planned(project, minutes=least / 60 * 0.5))
    half = plan(planned(project, minutes=(least + everything.total.seconds) / 120))
    assert half.total.seconds <= (least + everything.total.seconds) / 2 * 1.001
    assert half.sizes.policy <= everything.sizes.policy


def test_rates_of_short_runs_are_higher_up_to_a_bound() -> None:
    adapters = LoRA(rank=16)
    assert rate(PREFERRING, adapters, 2000) == 5e-6
    assert rate(PREFERRING, adapters, 1000) == pytest.approx(1e-5)
    assert rate(PREFERRING, adapters, 10) == pytest.approx(1e-4)
    assert rate(PREFERRING, LoRA(), 10_000) == 5e-7


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"method": ()}, "method is empty"),
    ({"method": ("dpo", "dpo")}, "twice"),
    ({"beta": 0.2, "method": ("grpo",)}, "beta is 0.2, which does not apply to grpo"),
    ({"kl": 0.2, "method": ("dpo", "ipo")}, "kl is 0.2, which does not apply to dpo and ipo"),
    ({"prompts": "p.jsonl"}, "method names none that samples"),
    ({"weights": "all", "rank": 8}, "trains no adapters"),
    ({"compute": Compute(dtype="bfloat16")}, "--precision bfloat16"),
    ({"minutes": -1.0}, "minutes is -1"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG)
def test_settings_that_contradict_each_other_are_refused(
    project: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        planned(project, **changes)


def test_too_few_comparisons_are_refused(project: Path) -> None:
    data = Preferences(source=str(project / "pairs.jsonl"), limit=10)
    with pytest.raises(InputError, match="give more comparisons"):
        look(planned(project, data=data))
