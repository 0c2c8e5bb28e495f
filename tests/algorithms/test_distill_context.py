"""Context distillation: the divergence against a brute force in float64, what is frozen, and a task it must solve."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.algorithms.distill_context import (
    TeacherAndPolicy,
    _parts,
    behind_context,
    context_in,
    divergence,
)
from prefloop.configs.common import Data, LoRA, RunSettings, Sampling
from prefloop.configs.distill_context import DistillContextConfig
from prefloop.configs.sft import SFTConfig
from prefloop.data.store import Store
from prefloop.data.store.lineage import lineage
from prefloop.errors import InputError
from prefloop.loop.inputs import prompts
from prefloop.loop.sources import PromptSource
from prefloop.losses import mean_over
from prefloop.models import head
from prefloop.models.load import load_policy
from prefloop.models.packing import pack
from prefloop.records import Message, Prompt
from prefloop.runtime import World
from prefloop.text import encode_prompt, load_tokenizer
from prefloop.text.groups import Group
from tests.algorithms import tiny
from tests.algorithms.small import train, write
from tests.algorithms.tiny import CPU, FAST, WORDS, logged
from tests.tiny_project import make_model

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
CONTEXT = "Say loud."


def config_of(out: Path, file: Path, model: Path, **changes: Any) -> DistillContextConfig:
    basic = DistillContextConfig(
        run=RunSettings(out=str(out), seed=1),
        data=Data(source=str(file), heldout=0.2),
        model=str(model),
        context=CONTEXT,
        sampling=Sampling(max_new_tokens=4),
        steps=1,
        batch_prompts=8,
        optim=FAST,
        compute=CPU,
    )
    return replace(basic, **changes)


def ragged(tokenizer: Any, folder: Path) -> tuple[list[Group], list[Group]]:
    """Two prompts with completions of other lengths, alone and behind the context."""
    del folder
    random = torch.Generator().manual_seed(0)
    plain, behind = [], []
    for n, text in enumerate(("ba", "what is the wind")):
        prompt = Prompt(content=text)
        completions = tuple(
            torch.randint(5, 200, (length,), generator=random).tolist() for length in (3 + n, 1, 5)[: 2 + n]
        )
        masks = tuple([True] * len(each) for each in completions)
        for groups, asked in ((plain, prompt), (behind, prompt.in_context(CONTEXT))):
            groups.append(Group(prompt=encode_prompt(tokenizer, asked), completions=completions, masks=masks))
    return plain, behind


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_value_and_gradient_by_brute_force(
    direction: Any, temperature: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One sequence at a time through models in float64, the whole vocabulary at once; here in chunks of three tokens."""
    ours, theirs = make_model(tmp_path / "a", chat=False), make_model(tmp_path / "b", chat=False, seed=1)
    tokenizer = load_tokenizer(ours)
    plain, behind = ragged(tokenizer, tmp_path)
    policy, teacher = (load_policy(str(each), CPU) for each in (ours, theirs))
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 3 * 300)
    roles = TeacherAndPolicy(
        policy=policy, teacher=teacher, forward=direction == "forward", temperature=temperature, tokens=4096
    )
    count = sum(len(each) for group in plain for each in group.completions)
    total = torch.zeros(())
    for part, batch in _parts(roles, plain, behind):
        values, _ = divergence(roles, batch, part.batch)
        total = total + mean_over(values, batch.completion_mask, count=count)
    total.backward()

    def logits(model: Any, group: Group, completion: Any) -> torch.Tensor:
        ids = [*group.prompt, *completion]
        rows = model(torch.tensor([ids])).logits[0, len(group.prompt) - 1 : -1]
        return (rows / temperature).log_softmax(-1)

    student, frozen = (load_policy(str(each), CPU).model.double() for each in (ours, theirs))
    expected = torch.zeros((), dtype=torch.float64)
    for alone, full in zip(plain, behind, strict=True):
        for completion in alone.completions:
            p = logits(student, alone, completion)
            with torch.no_grad():
                q = logits(frozen, full, completion)
            each = q.exp() * (q - p) if direction == "forward" else p.exp() * (p - q)
            expected = expected + each.sum() / count
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    named = dict(policy.model.named_parameters())
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(
                named[name].grad, parameter.grad.float(), rtol=2e-3, atol=2e-6, msg=name
            )
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_same_text_before_both_is_no_divergence(tmp_path: Path):
    model = make_model(tmp_path / "a", chat=False)
    tokenizer = load_tokenizer(model)
    plain, behind = ragged(tokenizer, tmp_path)
    policy = load_policy(str(model), CPU)
    roles = TeacherAndPolicy(
        policy=policy, teacher=policy.frozen_copy(), forward=True, temperature=1.0, tokens=4096
    )
    same, _ = divergence(roles, pack(plain), pack(plain))
    other, _ = divergence(roles, pack(plain), pack(behind))
    assert same.abs().max() < 1e-6
    assert other.max() > 1e-6
    with pytest.raises(AssertionError, match="different completions"):
        divergence(roles, pack(plain), pack(behind[:1]))


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers ` yes` behind the context, and ` no` without it."""
    folder = tmp_path_factory.mktemp("listening")
    torch.set_num_threads(1)
    rows = []
    for word in WORDS[:48]:
        behind = Prompt(content=word).in_context(CONTEXT).content
        rows += [{"prompt": behind, "completion": " yes"}, {"prompt": word, "completion": " no"}]
    write(folder / "demonstrations.jsonl", rows)
    write(folder / "words.jsonl", [{"prompt": word} for word in WORDS])
    make_model(folder / "start", chat=False)
    train(
        SFTConfig(
            run=RunSettings(out=str(folder / "sft")),
            data=Data(source=str(folder / "demonstrations.jsonl"), heldout=0.0),
            model=str(folder / "start"),
            batch_size=16,
            epochs=30,
            optim=FAST,
            compute=CPU,
        )
    )
    return folder


def share_of_yes(model: Path, context: str = "") -> float:
    """The mean probability that ` yes` begins the answer to a word."""
    tokenizer = load_tokenizer(model)
    policy = load_policy(str(model), CPU)
    words = WORDS[48:]  # none of them was in a demonstration
    yes = tokenizer.encode(" yes", add_special_tokens=False)
    groups = [
        Group(
            prompt=encode_prompt(tokenizer, Prompt(content=word).in_context(context)),
            completions=(yes,),
            masks=([True] * len(yes),),
        )
        for word in words
    ]
    with torch.no_grad():
        return policy(pack(groups)).sum(dim=1).exp().mean(dim=0).item()


@tiny.seeds(1, 2, 3)
@pytest.mark.parametrize(("by", "direction"), [("teacher", "forward"), ("policy", "reverse")])
def test_it_answers_without_the_context_as_with_it(
    by: Any, direction: Any, seed: int, listening: Path, tmp_path: Path
):
    start = listening / "sft/final"
    assert share_of_yes(start, CONTEXT) > 0.8
    assert share_of_yes(start) < 0.2
    config = config_of(
        tmp_path / "p" / "run",
        listening / "words.jsonl",
        start,
        sampled_by=by,
        divergence=direction,
        steps=40,
        batch_prompts=16,
        run=RunSettings(out=str(tmp_path / "p" / "run"), seed=seed),
        optim=replace(FAST, lr=5e-3),
    )
    rows = logged(config)
    assert rows[0]["divergence"] > 0.3
    assert rows[-1]["divergence"] < 0.05
    assert rows[-1]["heldout_divergence"] < 0.1
    assert share_of_yes(tmp_path / "p" / "run" / "final") > 0.8
    with Store.open(tmp_path / "p" / "prefloop.db") as store:
        assert "distill_context" in str(lineage(store, str(tmp_path / "p" / "run" / "final")))


def test_a_shared_trunk_teaches_with_its_adapter_off(listening: Path, tmp_path: Path):
    config = config_of(
        tmp_path / "run",
        listening / "words.jsonl",
        listening / "sft/final",
        steps=40,
        batch_prompts=16,
        lora=LoRA(rank=4, alpha=16.0),
    )
    rows = logged(config)
    assert rows[-1]["divergence"] < rows[0]["divergence"] / 3


def test_a_teacher_of_its_own_is_read(listening: Path, tmp_path: Path):
    config = config_of(
        tmp_path / "run",
        listening / "words.jsonl",
        listening / "start",
        teacher=str(listening / "sft/final"),
        steps=30,
        batch_prompts=16,
    )
    logged(config)
    assert share_of_yes(tmp_path / "run" / "final") > 0.6


@pytest.mark.parametrize("by", ["teacher", "policy"])
def test_completions_of_another_model_stop_the_run(
    by: Any, listening: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):  # D2 K1
    real = PromptSource.draw_of

    def other(self: PromptSource, *rest: Any, **options: Any) -> Any:
        drawn = real(self, *rest, **options)
        moved = [
            replace(each, completions=tuple([id + 1 for id in ids] for ids in each.completions))
            for each in drawn.groups
        ]
        return replace(drawn, groups=moved)

    monkeypatch.setattr(PromptSource, "draw_of", other)
    config = config_of(
        tmp_path / "run",
        listening / "words.jsonl",
        listening / "sft/final",
        sampled_by=by,
        sampling=Sampling(max_new_tokens=4, temperature=3.0),
    )
    with pytest.raises(InputError, match="step 0: nll is"):
        logged(config)


def test_a_context_stands_where_the_model_looks_for_it(listening: Path):
    asked = Message(role="user", content="hi")
    chat = Prompt(content=(asked,))
    system = Prompt(content=(Message(role="system", content="Be brief."), asked))
    assert chat.in_context("C").content[0] == Message(role="system", content="C")
    assert system.in_context("C").content[0] == Message(role="system", content="C\n\nBe brief.")
    config = config_of(listening, listening / "words.jsonl", listening / "start")
    tokenizer = load_tokenizer(listening / "start")
    plain, _, _ = prompts(config.data, tokenizer, "")
    part = behind_context(plain, config.context, tokenizer)
    for short, long in zip(part.plain.ids, part.behind.ids, strict=True):
        assert len(long) > len(short)
        assert long[-len(short) + 1 :] == short[1:]  # behind the start token where there is one


def test_contexts_that_are_wrong(tmp_path: Path):
    (tmp_path / "c.txt").write_text("Be kind.\n")
    (tmp_path / "empty.txt").write_text(" \n")
    given = config_of(tmp_path, tmp_path, tmp_path)
    assert context_in(str(tmp_path / "c.txt")) == "Be kind."
    with pytest.raises(InputError, match="which is empty"):
        context_in(str(tmp_path / "empty.txt"))
    with pytest.raises(InputError, match="cannot be read"):
        context_in(str(tmp_path / "none.txt"))
    for wrong in (
        {"context": ""},
        {"context_file": "x"},
        {"steps": 0},
        {"sampling": Sampling(temperature=0.0)},
    ):
        with pytest.raises(InputError):
            replace(given, **wrong)
