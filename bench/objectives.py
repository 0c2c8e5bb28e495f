"""What each objective costs: a step's processor time against `dpo`'s, and the share of it that the loss itself takes.

    OMP_NUM_THREADS=1 python -m bench.objectives [--loss dpo kto] [--hidden 256] [--repeats 7]

One step is a forward and backward pass of a Llama of four layers over 32 prompts with replies of 20 to 60 tokens, as `prefer` makes it: packed, the prompt once for
all of its completions, reference log-probabilities kept; what an objective needs besides (a live reference, mismatched completions, the contrast) is in
the step. The loss's share is what stands between the model's per-token numbers and the one number that is differentiated: quantities, whole-step
statistics, loss and reduction, and their backward pass down to the log-probabilities. A ranking has four completions a prompt, a comparison two, a label
or score one: rows of other kinds of data are against `dpo` on as many tokens. Processor time does not grow with what else the machine does; the median of the repeats.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from prefloop.configs.common import Compute
from prefloop.loop.objective_examples import Example
from prefloop.loop.objective_step import Task, Whole, losses_of, numbers_of
from prefloop.losses import example_mean
from prefloop.losses.objectives import OBJECTIVES, Objective
from prefloop.losses.quantities import TokenNumbers
from prefloop.models.load import as_policy
from prefloop.models.packing import MicroBatch, micro_batches
from prefloop.models.roles import Policy, scalar_head
from prefloop.runtime import World
from prefloop.text.groups import Group

COMPLETIONS = {"comparisons": 2, "rankings": 4, "labels": 1, "scores": 1}
PROMPTS, PROMPT_TOKENS, VOCABULARY = 32, 40, 4096
BUDGET = 1 << 20
"""Tokens a micro-batch: all of them."""


def make_policy(hidden: int) -> Policy:
    """Random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    return as_policy(LlamaForCausalLM(config), Compute(device="cpu"))


def make_groups(completions: int) -> list[Group]:
    """Ragged."""
    draw = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (count,), generator=draw).tolist()

    lengths = torch.randint(20, 61, (PROMPTS, completions), generator=draw).tolist()
    return [
        Group(
            prompt=ids(PROMPT_TOKENS),
            completions=tuple(ids(length) for length in row),
            masks=tuple([True] * length for length in row),
        )
        for row in lengths
    ]


def make_examples(objective: Objective, groups: list[Group]) -> list[Example]:
    """The groups with what the data says of them and made-up reference log-probabilities."""
    needs = objective.needs
    labels = {"comparisons": (1.0, 0.0), "rankings": (0.0,) * 4}
    return [
        Example(
            group=group,
            labels=labels.get(objective.data, (float(i % 2),)),
            reference=torch.full((sum(map(sum, group.masks)),), -8.0) if needs.reference else None,
            mismatched=groups[(i + 1) % len(groups)] if needs.mismatched else None,
            mismatched_reference=torch.tensor(-300.0) if needs.mismatched else None,
            prompt_odds=1.0 if needs.prompt_odds else None,
        )
        for i, group in enumerate(groups)
    ]


def detached(numbers: TokenNumbers) -> TokenNumbers:
    """The same numbers, those that had a gradient as leaves."""
    found = {}
    for each in fields(numbers):
        value = getattr(numbers, each.name)
        if value is not None:
            found[each.name] = value.detach().requires_grad_(value.requires_grad)
    return replace(numbers, **found)


def processor_time(work: Callable[[], object], repeats: int) -> float:
    """Median of the repeats, after one that does not count."""
    work()
    took = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return statistics.median(took)


def cost(name: str, policy: Policy, reference: Policy, repeats: int) -> tuple[float, float, int]:
    """Seconds of a step, seconds of the loss in it, tokens of the packed row."""
    objective = OBJECTIVES[name]
    groups = make_groups(COMPLETIONS[objective.data])
    examples = make_examples(objective, groups)
    (micro,) = micro_batches(groups, tokens=BUDGET)
    assert micro.batch.input_ids.numel() == sum(group.tokens for group in groups), "a prompt is there twice"
    width = policy.head().weight.shape[1]
    task = Task(
        loss=name,
        objective=objective,
        settings=objective.settings,
        policy=policy,
        reference=reference if objective.needs.forward_kl else None,
        value_head=scalar_head(width, std=0.02, generator=torch.Generator())
        if objective.needs.value
        else None,
        moves=False,
        tokens=BUDGET,
        world=World(rank=0, size=1, device=torch.device("cpu")),
    )

    def loss_of(numbers: TokenNumbers, micro: MicroBatch, whole: Whole) -> Tensor:
        extra = whole.prepared(numbers).at(micro.groups)
        return example_mean(losses_of(task, numbers, extra), examples=len(groups))

    def whole() -> Whole:
        return Whole(task=task, examples=examples, running=dict(objective.running), seed=0, step=1)

    def step() -> None:
        policy.zero_grad()
        prepared = whole()
        loss_of(numbers_of(task, examples, micro), micro, prepared).backward()

    numbers = detached(numbers_of(task, examples, micro))
    ready = whole()  # mismatched completions are a pass of the model, not the loss

    def loss_alone() -> None:
        loss_of(numbers, micro, ready if objective.needs.mismatched else whole()).backward()

    return (
        processor_time(step, repeats),
        processor_time(loss_alone, 3 * repeats),
        micro.batch.input_ids.numel(),
    )


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loss", nargs="*", default=list(OBJECTIVES))
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    policy, reference = make_policy(given.hidden), make_policy(given.hidden)
    reference.requires_grad_(False)
    base, _, base_tokens = cost("dpo", policy, reference, given.repeats)
    print("| `--loss` | tokens | step, s | a token, against `dpo` | the loss's share |")
    print("| --- | --- | --- | --- | --- |")
    for name in given.loss:
        step, alone, tokens = cost(name, policy, reference, given.repeats)
        ratio = step / tokens / (base / base_tokens)
        print(f"| `{name}` | {tokens} | {step:.2f} | {ratio:.2f} | {alone / step:.2%} |", flush=True)


if __name__ == "__main__":
    main()
