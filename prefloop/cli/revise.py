"""`prefloop revise`."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prefloop.cli.judge import open_model, write_lines
from prefloop.configs.judge import ReviseConfig
from prefloop.data.store import Judgement, Store
from prefloop.errors import InputError
from prefloop.feedback.judges import (
    Cached,
    ChatModel,
    Endpoint,
    Failures,
    Principle,
    Revision,
    ask_all,
    constitution_sha256,
    cost_line,
    drawn_order,
    read_constitution,
    revise,
    try_revision_injection,
)
from prefloop.feedback.judges.prompts import VERSION, speaks_to_the_judge
from prefloop.records import Completion, Prompt


@dataclass(slots=True)
class _Revised(Failures):
    """What came of revising."""

    steps: dict[int, tuple[Revision, ...]] = field(default_factory=dict)
    """By the completion's place; one without is not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Annotator:
    """Who prefers the revisions, and the checkpoint that wrote them, in the store."""

    name: str
    id: int
    policy: int
    checkpoint: int


def revise_completions(config: ReviseConfig) -> str:
    """Criticise and revise, write demonstrations, comparisons and steps, print what came of it; the file of demonstrations."""
    principles = read_constitution(config.constitution)
    with (
        Store.open(config.store, create=False) as store,
        open_model(config, temperature=config.temperature, logprobs=False) as model,
    ):
        cached = Cached(model, config.cache or store.folder / "judge_cache.db")
        policy = store.find_checkpoint(config.policy)
        completions = _completions(config, store, policy)
        annotator = _annotator(config, store, cached, principles, policy)

        def rework(prompt: Prompt, text: str) -> tuple[Revision, ...]:
            order = drawn_order(len(principles), config.seed, prompt.sha256, text)
            chosen = [principles[order[step % len(order)]] for step in range(config.revisions)]
            return revise(cached, prompt, text, chosen, max_tokens=config.max_tokens, seed=config.seed)

        result = _Revised()

        def keep(place: int, steps: tuple[Revision, ...]) -> None:
            _write_comparison(store, annotator, completions[place], steps, config.round)
            result.steps[place] = steps

        ask_all(
            range(len(completions)),
            lambda place: rework(completions[place].prompt, completions[place].text),
            keep,
            failures=result,
            name=lambda place: f"completion {completions[place].text[:40]!r}",
            workers=config.limits.workers,
        )
        _write_files(config, completions, result)
        print("\n".join(_lines(config, completions, result, model, cached)))
        if config.injection and result.steps:
            some = [completions[place] for place in sorted(result.steps)][: config.injection]
            obeyed, tried = try_revision_injection(rework, [(one.prompt, one.text) for one in some])
            print(f"  an instruction planted in a completion took over {obeyed} of {tried} revisions")
        if not result.steps:
            raise InputError(
                f"nothing was revised: {result.stopped or '; '.join(result.problems) or 'no reply'}"
            )
    return config.demonstrations


def _completions(config: ReviseConfig, store: Store, policy: int) -> list[Completion]:
    """What is revised: the first completions of each prompt."""
    taken: Counter[Prompt] = Counter()
    found: list[Completion] = []
    for one in store.completions([policy]):
        if one.text and (not config.per_prompt or taken[one.prompt] < config.per_prompt):
            taken[one.prompt] += 1
            found.append(one)
    if not found:
        raise InputError(
            f"{store.label}: there is no completion of {config.policy} to revise; draw some with `prefloop sample`"
        )
    return found[: config.limit] if config.limit else found


def _annotator(
    config: ReviseConfig, store: Store, model: ChatModel, principles: Sequence[Principle], policy: int
) -> _Annotator:
    """The rows that revisions and their comparisons belong to."""
    name = config.annotator or f"constitution:{config.called}"
    settings = {
        **model.identity,
        "constitution_sha256": constitution_sha256(principles),
        "revisions": config.revisions,
        "max_tokens": config.max_tokens,
        "template": VERSION,
        "seed": config.seed,
    }
    id = store.add_annotator(name, kind="ai", settings=settings)
    # The reviser's texts are a source of their own: whoever trains on them sees in the lineage where they come from.
    checkpoint = store.add_checkpoint(f"revised by {name}", kind="generator", parent=policy)
    return _Annotator(name=name, id=id, policy=policy, checkpoint=checkpoint)


def _write_comparison(
    store: Store, annotator: _Annotator, original: Completion, steps: Sequence[Revision], round: int
) -> None:
    """The last revision, preferred to the original, into the store; nothing where nothing was changed. Done again it changes nothing."""
    after = steps[-1].after
    if after == original.text.strip():
        return
    revised = Completion(
        prompt=original.prompt,
        text=after,
        policy=f"revised by {annotator.name}",
        logprob=0.0,
        tokens=0,
        ended=True,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        index=original.index,
    )
    (before,) = store.add_completions([original], annotator.policy)
    (new,) = store.add_completions([revised], annotator.checkpoint)
    (item,) = store.add_items([(before, new)], strategy="revision", round=round)
    store.judge(
        Judgement(
            item=item,
            annotator=annotator.id,
            choice="b",
            order_shown=(0, 1),
            idempotency_key=f"revision {annotator.id} {item}",
        )
    )


def _write_files(config: ReviseConfig, completions: Sequence[Completion], result: _Revised) -> None:
    """Demonstrations, and every step where that is asked for."""
    demonstrations: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for place, revisions in sorted(result.steps.items()):
        prompt = completions[place].prompt.to_json()
        demonstrations.append({"prompt": prompt, "completion": revisions[-1].after})
        steps += [
            {
                "prompt": prompt,
                "step": number,
                "principle": each.principle,
                "before": each.before,
                "critique": each.critique,
                "after": each.after,
            }
            for number, each in enumerate(revisions, 1)
        ]
    for file, rows, setting in (
        (config.demonstrations, demonstrations, "demonstrations"),
        (config.steps, steps, "steps"),
    ):
        if file and rows:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_lines(file, text, setting=setting)


def _lines(
    config: ReviseConfig,
    completions: Sequence[Completion],
    result: _Revised,
    model: ChatModel,
    cached: Cached,
) -> list[str]:
    same = sum(steps[-1].after == steps[0].before.strip() for steps in result.steps.values())
    lengths = [
        (len(steps[0].before.split()), len(steps[-1].after.split())) for steps in result.steps.values()
    ]
    speaking = sum(speaks_to_the_judge(one.text) for one in completions)
    lines = [
        f"{config.called} revised {len(result.steps)} of {len(completions)} completions of {config.policy}, {config.revisions} times each",
        f"  unchanged {same}; {len(result.steps) - same} comparisons of revision over original are in the store",
        f"  unreadable replies {result.unreadable}, no answer {result.failed}; these completions have no revision",
        *(f"    {problem}" for problem in result.problems),
    ]
    if lengths:
        before, after = (sum(part) / len(lengths) for part in zip(*lengths, strict=True))
        lines.insert(1, f"  words on average: {before:.1f} before, {after:.1f} after")
        lines.append(f"  wrote {len(result.steps)} demonstrations to {config.demonstrations}")
    if speaking:
        lines.append(
            f"  ! {speaking} completions look as if they spoke to whoever judges or revises; look at them"
        )
    lines.append(f"  answers from the cache: {cached.hits}")
    if isinstance(model, Endpoint):
        lines.append(f"  {cost_line(model.limits, model.spent)}")
    if result.stopped:
        lines.append(f"  ended early: {result.stopped}")
    return lines
