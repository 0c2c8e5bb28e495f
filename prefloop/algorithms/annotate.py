"""A scorer as annotator: whatever `--reward_model` can name compares the pairs in a store, without people.

With STRONG@WEAK the score of a completion is log π_strong - log π_weak, the density ratio of a better model to a worse one, which needs no labels
at all (arXiv:2411.02481); a `reward.context` is then the customised prompt that says what is asked for. Judgements carry the difference of
scores as margin, and are stored as those of an annotator of kind `ai`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefloop.addresses import without_passwords
from prefloop.configs.annotate import ScorePairsConfig
from prefloop.data.store import Choice, Item, Judgement, Store
from prefloop.errors import InputError
from prefloop.loop.provenance import models_read
from prefloop.loop.scoring import bring_scorers, scorer_roles
from prefloop.records import Prompt
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import start_world


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreVerdict:
    """What a difference of scores says of a pair."""

    choice: Choice
    margin: float


def verdict(first: float, second: float, *, tie_width: float) -> ScoreVerdict:
    """The higher score wins, unless the two are equal or closer than `tie_width`."""
    difference = first - second
    if difference == 0 or abs(difference) < tie_width:
        return ScoreVerdict(choice="tie", margin=0.0)
    return ScoreVerdict(choice="a" if difference > 0 else "b", margin=abs(difference))


def score_pairs(config: ScorePairsConfig) -> str:
    """Pair stored completions, compare them by score, and say what was made; the store's name."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    bring_scorers(world, config.reward_model)
    names, _ = scorer_roles(config.reward_model)
    scorer = EnsembleScorer.load(
        config.reward_model, config.compute, world, rules=config.reward, normalise=False
    )
    known = models_read(world, **names).sha256 if names else {}
    annotator, items, made = world.on_main(lambda: _items(config, known))
    texts: dict[Prompt, dict[str, None]] = {}
    for item in items:
        texts.setdefault(item.prompt, {}).update(dict.fromkeys(item.completions))
    scores = _scores(scorer, texts)

    def write() -> None:
        judgements = [_judgement(annotator, item, scores, tie_width=config.tie_width) for item in items]
        with Store.open(config.store, create=False) as store:
            store.add_judgements(judgements)
        counts = Counter(judgement.choice for judgement in judgements)
        listed = ", ".join(f"{choice} {count}" for choice, count in sorted(counts.items())) or "none"
        print(
            f"{without_passwords(config.store)}: {made}\n  new judgements by {config.annotator}: {len(judgements)} ({listed}; ties give no comparison)"
        )

    world.on_main(write)
    return config.store


def _items(config: ScorePairsConfig, known: Mapping[str, str]) -> tuple[int, list[Item], str]:
    """The annotator's id, the pairs that it has not judged, and what was paired."""
    settings = {
        "reward_model": config.reward_model,
        "tie_width": config.tie_width,
        "combine": config.reward.combine,
        "variance_penalty": config.reward.variance_penalty,
        "beta": config.reward.beta,
        "context": config.reward.context,
        **{f"weights.{role}": sha256 for role, sha256 in known.items()},
    }
    with Store.open(config.store, create=False) as store:
        checkpoints = [store.find_checkpoint(name) for name in config.checkpoints]
        annotator = store.add_annotator(config.annotator, kind="ai", settings=settings)
        added = store.add_pairs(
            strategy=config.pairs, seed=config.seed, round=config.round, checkpoints=checkpoints
        )
        if not added.ids:
            raise InputError(
                f"{without_passwords(config.store)}: no prompt has two different completions to compare; draw more with `prefloop sample`"
            )
        pairs = set(added.ids)
        items = [item for item in store.open_items(annotator, rounds=(config.round,)) if item.id in pairs]
    return annotator, items, f"{len(added.ids)} pairs, {added.new} of them new"


def _scores(
    scorer: EnsembleScorer, texts: Mapping[Prompt, Mapping[str, None]]
) -> dict[tuple[Prompt, str], float]:
    """Every completion's score, each computed once."""
    if not texts:
        return {}
    asked: Sequence[Prompt] = list(texts)
    values = scorer.of_texts(asked, [list(some) for some in texts.values()]).tolist()
    keys = [(prompt, text) for prompt, some in texts.items() for text in some]
    return dict(zip(keys, values, strict=True))


def _judgement(
    annotator: int, item: Item, scores: Mapping[tuple[Prompt, str], float], *, tie_width: float
) -> Judgement:
    first, second = (scores[item.prompt, text] for text in item.completions)
    found = verdict(first, second, tie_width=tie_width)
    return Judgement(
        item=item.id,
        annotator=annotator,
        choice=found.choice,
        order_shown=(0, 1),
        margin=found.margin,
        idempotency_key=f"scorer {annotator} {item.id}",
    )
