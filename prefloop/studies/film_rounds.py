"""Rounds of comparisons on film reviews: as `rounds`, with a small language model, reward models that are networks, and PPO."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefloop.data import write_jsonl
from prefloop.evaluation.json_files import read_json, write_json
from prefloop.studies.film_preferences import (
    Answers,
    Judged,
    PreferenceFilms,
    PreferenceSettings,
    answer,
    comparisons_of,
    fit_reward_model,
    heldout_prompts,
    judge_drawn,
    learn_online,
    prepare_preferences,
)
from prefloop.studies.films import Films, Learned, read_prompts
from prefloop.studies.rounds import FROZEN, LAST_ONLY, ONE_SHOT, REFERENCE, SCALES, reported, ways
from prefloop.studies.study import Numbers, Place, Study, StudyCell, StudyReport, StudyResults

REFERENCE_TEXTS = "reference.json"
"""The reference's continuations of the held-out openings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmRoundsSettings(PreferenceSettings):
    """Settings of the study `film_rounds`."""

    rounds: int = 5
    labels: int = 400
    """A round, each of an opening of its own; one shot has as many as all rounds together."""
    steps: int = 40
    """Of PPO in each round, from the reference."""
    kl: float = 0.1
    """Its KL's coefficient, in standard deviations of the reward model's scores of its comparisons."""


def cells(settings: FilmRoundsSettings) -> list[StudyCell]:
    """One shot, and rounds in four ways."""
    return ways()


def prepare(settings: FilmRoundsSettings, place: Place) -> None:
    """The world, and the reference's continuations."""
    films = Films(settings=settings, place=place)
    prepare_preferences(films)
    write_json(place.prepared / REFERENCE_TEXTS, answer(films, films.pretrained).texts)


def work(settings: FilmRoundsSettings, cell: StudyCell, place: Place) -> Numbers:
    """The policy after each round; one shot is a single round with all labels."""
    films = Films(settings=settings, place=place)
    one_shot = cell.name == ONE_SHOT
    count = settings.labels * (settings.rounds if one_shot else 1)
    prompts = read_prompts(films, "openings")
    policy, reward_model = films.pretrained, ""
    data: list[Judged] = []
    points = [_point(films, policy, reward_model)]
    for number in range(1 if one_shot else settings.rounds):
        own = films.marked(f"round-{number}")
        source = films.pretrained if cell.name == REFERENCE else policy
        asked = prompts[number * count : (number + 1) * count]
        fresh = judge_drawn(films, source, asked, k=2, seed=10_000 + 100 * number + place.seed)
        data = fresh if cell.name == LAST_ONLY else data + fresh
        if number == 0 or cell.name != FROZEN:
            reward_model = _fitted(own, data)
        policy = learn_online(own, "ppo", steps=settings.steps, kl=settings.kl, reward_model=reward_model)
        points.append(_point(films, policy, reward_model))
    return {"points": points}


def _fitted(films: PreferenceFilms, data: Sequence[Judged]) -> str:
    file = films.place.folder / f"compared{films.mark}.jsonl"
    write_jsonl(comparisons_of(data), file)
    return fit_reward_model(films, str(file))


def _point(films: PreferenceFilms, policy: str, reward_model: str) -> Numbers:
    """The reward model's scores are standardised under the reference, as the true reward is. Before there is one, it knows nothing."""
    answers = answer(films, policy)
    scores = _scores(films, reward_model, answers) if reward_model else np.zeros_like(answers.gold)
    gold = float(answers.gold.mean())
    return {
        "gold": gold,
        "kl": float(answers.kl.mean()),
        "gap": float(scores.mean()) - gold,
        "accuracy": 100 * agreement(scores, answers.gold),
        "drawn": [[round(float(g), 4) for g in row] for row in answers.gold],
    }


def _scores(films: PreferenceFilms, reward_model: str, answers: Answers) -> np.ndarray:
    prompts = [prompt for prompt in heldout_prompts(films) for _ in range(films.settings.answers)]
    score, texts = Learned(reward_model), (read_json(films.place.prepared / REFERENCE_TEXTS), answers.texts)
    reference, own = (np.array(score(prompts, [text for some in each for text in some])) for each in texts)
    return ((own - reference.mean()) / reference.std()).reshape(answers.gold.shape)


def agreement(scores: np.ndarray, gold: np.ndarray) -> float:
    """Share of an opening's neighbouring continuations, of different true reward, that scores order as the true reward does; a tie of scores is a half."""
    ours, true = np.diff(scores, axis=1), np.diff(gold, axis=1)
    right = np.where(ours == 0, 0.5, np.sign(ours) == np.sign(true))
    return float(right[true != 0].mean())


def report(settings: FilmRoundsSettings, results: StudyResults) -> StudyReport:
    """As that of the study `rounds`."""
    return reported(
        settings.rounds,
        results,
        f"A round has {settings.labels} labels, one shot {settings.labels * settings.rounds}. {SCALES} In the end `rounds from the reference` has "
        "as many labels of the same policy as `one shot`, so the two differ by chance alone. Every policy is trained by PPO for "
        f"{settings.steps} steps from the reference. The language model is tiny ({settings.layers} layers, {settings.width} wide, from scratch); the "
        "true reward is a judge's of sentiment.",
    )


STUDY = Study(
    title="Rounds against one shot on film reviews",
    question=(
        "Is it better to compare the current policy's continuations round after round, or to compare the reference's once, with equally many "
        "labels, when the policy is a language model trained by PPO and the reward model is another?"
    ),
    settings=FilmRoundsSettings,
    cells=cells,
    work=work,
    report=report,
    prepare=prepare,
)
