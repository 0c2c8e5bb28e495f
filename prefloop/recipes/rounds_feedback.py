"""Who compares in the recipe `rounds`: a simulated annotator, an AI judge, each round's policy itself, or people."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

from prefloop.configs.common import Compute
from prefloop.configs.judge import SCORER
from prefloop.configs.recipes import RoundsConfig
from prefloop.data.split import part_of
from prefloop.data.store import Filters, Item, Judgement, Store
from prefloop.data.store.values import AnnotatorKind
from prefloop.errors import InputError
from prefloop.feedback.judges import (
    Cached,
    DirectScorer,
    JudgeSettings,
    PairJudge,
    cost_of,
    judge_items,
    keep_in,
)
from prefloop.feedback.judges.prompts import VERSION
from prefloop.feedback.judges.rlaif import rubric_of
from prefloop.feedback.simulate import SimulatedAnnotator, label_items
from prefloop.loop.asked import open_chat
from prefloop.loop.judge_scorer import read_scorer
from prefloop.loop.local_judge import LocalChat
from prefloop.recipes.people import PEOPLE, AskedPeople, wait_for_people
from prefloop.recipes.plan import Plan
from prefloop.records import Completion, Prompt

ANNOTATOR = "simulated"
ARENA = "arena"
"""Strategy of the pairs that rate the rounds' policies against each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairAnnotator:
    """Somebody who judges any pairs on demand."""

    register: Callable[[Store], int]
    """The annotator's id in the store."""
    label: Callable[[Store, int, Sequence[Item]], object]
    """Given its id and pairs, judges them into the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundFeedback:
    """How a round's samples become comparisons."""

    compare: Callable[[int, str], object]
    """Given the round and the policy that was sampled; done again it adds what is missing."""
    filters: Filters
    """Whose comparisons they are."""
    arena: tuple[PairAnnotator, ...]
    """Who compares the rounds' policies with each other; nobody where nobody judges on demand."""


def feedback_of(config: RoundsConfig, plan: Plan, annotator: SimulatedAnnotator | None) -> RoundFeedback:
    """Who compares, as the settings say. `annotator` knows the truth, where anybody does."""
    knows = () if annotator is None else (_simulated(annotator),)
    alone = {
        "studio": RoundFeedback(compare=partial(_people, config, plan), filters=PEOPLE, arena=knows),
        "self": RoundFeedback(
            compare=partial(_itself, config, plan), filters=Filters(kinds=("ai",)), arena=knows
        ),
    }
    who = "studio" if config.annotator == "studio" else config.judge
    if who in alone:
        return alone[who]
    if who:
        return _on_demand(config, plan, _judge(who, Path(plan.sample.store).parent), kind="ai")
    return _on_demand(config, plan, *knows, kind="simulated")


def _on_demand(config: RoundsConfig, plan: Plan, who: PairAnnotator, *, kind: AnnotatorKind) -> RoundFeedback:
    """Feedback of somebody who judges any pairs."""

    def compare(number: int, policy: str) -> None:
        with Store.open(plan.sample.store) as store:
            id = who.register(store)
            who.label(store, id, _waiting(store, config, number, policy, id))

    return RoundFeedback(compare=compare, filters=Filters(kinds=(kind,)), arena=(who,))


def simulated_annotator(
    utility: Callable[[Prompt, str], float],
    *,
    flip: float,
    seed: int,
    temperature: float = 1.0,
    sha256: str = "",
) -> SimulatedAnnotator:
    """Who compares by the truth, with some labels flipped. `sha256` is that of what the utility depends on, if it is known."""
    return SimulatedAnnotator(
        name=ANNOTATOR,
        utility=utility,
        temperature=temperature,
        flip=flip,
        seed=seed,
        utility_sha256=sha256,
    )


def _simulated(annotator: SimulatedAnnotator) -> PairAnnotator:
    """A simulated annotator, on demand."""

    def label(store: Store, id: int, items: Sequence[Item]) -> None:
        del id
        made = label_items(store, annotator, items)
        print(f"compare: {sum(made.choices.values())} judgements by {ANNOTATOR}")

    return PairAnnotator(
        register=lambda store: store.add_annotator(
            ANNOTATOR, kind="simulated", settings=annotator.settings()
        ),
        label=label,
    )


def _judge(file: str, project: Path) -> PairAnnotator:
    """An AI judge of pairs, by the settings in the file."""
    settings = read_scorer(f"{SCORER}{file}")
    name = f"judge:{settings.called}"
    asked_by = JudgeSettings(rubric=rubric_of(settings), seed=settings.seed)
    model = open_chat(settings)
    cached = Cached(model, settings.cache or project / "judge_cache.db")
    judge = PairJudge(cached, asked_by)

    def label(store: Store, id: int, items: Sequence[Item]) -> None:
        report = judge_items(
            judge, items, keep=keep_in(store, id, settings.seed), workers=settings.limits.workers
        )
        cost = cost_of(model)
        print(
            f"compare: {len(report.verdicts)} of {len(items)} judgements by {name}, both orders name the same side in {report.consistency:.1%}; "
            f"unreadable {report.unreadable}, no answer {report.failed}{cost and f'; {cost}'}"
        )
        if report.stopped or (items and not report.verdicts):
            raise InputError(
                f"the judge stopped: {report.why}; its answers are kept; continue with --resume true"
            )

    return PairAnnotator(
        register=lambda store: store.add_annotator(name, kind="ai", settings=judge.identity()), label=label
    )


def _waiting(store: Store, config: RoundsConfig, number: int, policy: str, annotator: int) -> list[Item]:
    """The round's pairs that are still to be judged, of a random choice that is the same however often it is asked for."""
    checkpoint = store.find_checkpoint(policy)
    made = store.add_pairs(strategy="all", seed=config.seed, round=number, checkpoints=[checkpoint])
    ids = sorted(made.ids)
    draw = random.Random(f"{config.seed} pairs {number}")
    chosen = set(draw.sample(ids, min(config.pairs, len(ids))))
    return [item for item in store.open_items(annotator, rounds=(number,)) if item.id in chosen]


def _people(config: RoundsConfig, plan: Plan, number: int, policy: str) -> None:
    """Wait for people to compare this round's samples."""
    with Store.open(plan.sample.store) as store:
        checkpoint = store.find_checkpoint(policy)
    asked = AskedPeople(
        project=f"round {number}",
        pairs=config.pairs,
        labels=config.labels,
        heldout=plan.reward.data.heldout,
        seed=config.seed,
        checkpoints=[checkpoint],
        round=number,
    )
    wait_for_people(plan.sample.store, asked)


def _itself(config: RoundsConfig, plan: Plan, number: int, policy: str) -> None:
    """Let this round's policy compare its samples."""
    with Store.open(plan.sample.store) as store:
        judge_itself(
            store, policy, number=number, pairs=config.pairs, seed=config.seed, compute=config.compute
        )


def judge_itself(store: Store, policy: str, *, number: int, pairs: int, seed: int, compute: Compute) -> None:
    """Let a policy score its own samples by a judge's question; of each prompt the best is preferred to the worst (arXiv:2401.10020).

    Scores are expectations over the answer's probabilities. Prompts whose scores are equal, or cannot be read, give no comparison. Raises
    `InputError` where no sample has a readable score: such a model cannot judge itself.
    """
    checkpoint = store.find_checkpoint(policy)
    by_prompt: dict[Prompt, dict[str, Completion]] = {}
    for one in store.completions([checkpoint]):
        if one.seed == seed + number and one.text:
            by_prompt.setdefault(one.prompt, {}).setdefault(one.text, one)
    several = [prompt for prompt, texts in by_prompt.items() if len(texts) > 1]
    random.Random(f"{seed} pairs {number}").shuffle(several)
    several = several[:pairs]
    model = LocalChat(policy, compute)
    name = f"self:round {number}"
    settings = {**model.identity, "question": "score", "template": VERSION, "seed": seed}
    annotator = store.add_annotator(name, kind="ai", settings=settings)
    asked = [(prompt, one) for prompt in several for one in by_prompt[prompt].values()]
    scores, failures = DirectScorer(model, seed=seed).try_each(
        [prompt for prompt, _ in asked], [one.text for _, one in asked]
    )
    if asked and all(score is None for score in scores):
        raise InputError(
            f"{policy} gives no readable score to any of its {len(asked)} samples ({'; '.join(failures.problems[:1])}), so it cannot judge "
            "itself; start from a model that follows instructions, or set judge to another one"
        )
    scored: dict[Prompt, list[tuple[float, Completion]]] = {}
    for (prompt, one), score in zip(asked, scores, strict=True):
        if score is not None:
            scored.setdefault(prompt, []).append((score, one))
    made = [_best_over_worst(store, checkpoint, annotator, number, scores) for scores in scored.values()]
    print(
        f"compare: {sum(made)} judgements by {name} on {len(several)} prompts; unreadable {failures.unreadable} of {len(asked)} scores, "
        f"equal on {len(made) - sum(made)} prompts"
    )


def _best_over_worst(
    store: Store, checkpoint: int, annotator: int, number: int, scored: Sequence[tuple[float, Completion]]
) -> bool:
    """Write the comparison of a prompt's best and worst sample; False if their scores are equal."""
    best, worst = max(scored, key=lambda index: index[0]), min(scored, key=lambda index: index[0])
    if best[0] == worst[0]:
        return False
    ids = store.add_completions([best[1], worst[1]], checkpoint)
    (item,) = store.add_items([tuple(ids)], strategy="self", round=number)
    (shown,) = store.items([item])
    store.add_judgement(
        Judgement(
            item=item,
            annotator=annotator,
            choice="a" if shown.completions[0] == best[1].text else "b",
            order_shown=(0, 1),
            idempotency_key=f"self {annotator} {item}",
        )
    )
    return True


def judge_arena(
    store: Store, who: PairAnnotator, policies: Sequence[str], *, round: int, heldout: float, prompts: int
) -> None:
    """Compare the first sample of every policy with that of each other one, on held-out prompts, as pairs of a round of their own."""
    firsts: dict[Prompt, list[tuple[int, str]]] = {}
    for policy in policies:
        checkpoint = store.find_checkpoint(policy)
        found: dict[Prompt, Completion] = {}
        for one in store.completions([checkpoint]):
            if part_of(one.prompt, heldout=heldout) == "heldout" and one.text:
                found.setdefault(one.prompt, one)
        ids = store.add_completions(list(found.values()), checkpoint)
        for (prompt, one), id in zip(found.items(), ids, strict=True):
            firsts.setdefault(prompt, []).append((id, one.text))
    groups = [
        (a, b)
        for samples in list(firsts.values())[:prompts]
        for (a, first), (b, second) in combinations(samples, 2)
        if first != second
    ]
    if not groups:
        return
    made = set(store.add_items(groups, strategy=ARENA, round=round))
    id = who.register(store)
    who.label(store, id, [item for item in store.open_items(id, rounds=(round,)) if item.id in made])
