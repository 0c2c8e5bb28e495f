"""All objectives of `prefer` on film reviews, tuned equally: as `objectives`, with a small language model in place of tables."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from prefloop.data import write_jsonl
from prefloop.evaluation.json_files import read_json, write_json
from prefloop.losses.objectives import OBJECTIVES
from prefloop.records import Comparison
from prefloop.studies.film_preferences import (
    COMPARED,
    RANKED,
    SCORED,
    Answers,
    PreferenceFilms,
    PreferenceSettings,
    answer,
    comparisons_of,
    fit_reward_model,
    judge_drawn,
    learn_offline,
    prepare_preferences,
    rankings_of,
    scores_of,
)
from prefloop.studies.films import Films, Learned, read_prompts
from prefloop.studies.letters import likelihoods
from prefloop.studies.objectives import DPO, check_objectives, objectives_of, reported, tried
from prefloop.studies.study import Numbers, Place, Study, StudyCell, StudyReport, StudyResults

SOFT = "compared_soft"
"""The comparisons with how likely each is, by a reward model of them."""
DPO_ANSWERS = "dpo.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmObjectivesSettings(PreferenceSettings):
    """Settings of the study `film_objectives`."""

    drawn: int = 200
    offline_rate: float = 1e-3
    prompts: int = 400
    """Openings whose continuations are judged."""
    ranked: int = 4
    """Continuations of each: a ranking, two comparisons, or four labels or scores."""
    epochs: float = 1.0
    only: tuple[str, ...] = ()
    """Objectives, `dpo` among them; empty for all."""

    def __post_init__(self) -> None:
        check_objectives(self.only)
        if self.ranked % 2:
            raise ValueError(f"ranked is {self.ranked}; it must be even, for comparisons are of two of them")


def cells(settings: FilmObjectivesSettings) -> list[StudyCell]:
    """An objective a cell: it is swept inside."""
    return objectives_of(settings.only)


def prepare(settings: FilmObjectivesSettings, place: Place) -> None:
    """The world, what the annotator says in all ways, and DPO's continuations, which every objective's are compared with."""
    films = Films(settings=settings, place=place)
    prepare_preferences(films)
    prompts = read_prompts(films, "openings")[: settings.prompts]
    judged = judge_drawn(films, films.pretrained, prompts, k=settings.ranked, seed=10_000 + place.seed)
    compared = comparisons_of(judged)
    write_jsonl(compared, films.file(COMPARED))
    write_jsonl(rankings_of(judged), films.file(RANKED))
    write_jsonl(scores_of(judged), films.file(SCORED))
    if "sppo_soft" in {cell.name for cell in cells(settings)}:
        write_jsonl(_softened(films, compared), films.file(SOFT))
    write_json(place.prepared / DPO_ANSWERS, [_plain(one) for one in _answers(films, DPO)])


def _softened(films: PreferenceFilms, compared: list[Comparison]) -> list[Comparison]:
    score = Learned(fit_reward_model(films, str(films.file(COMPARED))))
    prompts = [one.prompt for one in compared]
    chosen = np.array(score(prompts, [one.chosen for one in compared]))
    rejected = np.array(score(prompts, [one.rejected for one in compared]))
    p = likelihoods(torch.as_tensor(chosen - rejected))
    return [replace(one, p_soft=round(float(own), 6)) for one, own in zip(compared, p, strict=True)]


def _answers(films: PreferenceFilms, name: str) -> list[Answers]:
    """One for each setting that is tried."""
    settings, kind = films.settings, OBJECTIVES[name].data
    file = SOFT if name == "sppo_soft" else {"rankings": RANKED, "scores": SCORED}.get(kind, COMPARED)
    found = []
    for at, one in enumerate(tried(name)):
        given = {key: value for key, value in one.items() if key != "rate"}
        model = learn_offline(
            films.marked(str(at)),
            name,
            str(films.file(file)),
            given,
            epochs=settings.epochs,
            ranked=settings.ranked,
            rate=one.get("rate", 1.0),
        )
        found.append(answer(films, model))
    return found


def _plain(answers: Answers) -> Mapping[str, list[list[float]] | list[float]]:
    return {"gold": answers.gold.tolist(), "kl": answers.kl.tolist(), "length": answers.length.tolist()}


def work(settings: FilmObjectivesSettings, cell: StudyCell, place: Place) -> Numbers:
    """The objective's points, by halves of the openings: each with its win rates against every one of DPO's."""
    films = Films(settings=settings, place=place)
    dpo = read_json(place.prepared / DPO_ANSWERS)
    own = dpo if cell.name == DPO else [_plain(one) for one in _answers(films, cell.name)]
    return {
        "points": [
            _halves(*({key: np.array(value) for key, value in one.items()} for one in (a, *dpo))) for a in own
        ]
    }


def _halves(own: Mapping[str, np.ndarray], *dpo: Mapping[str, np.ndarray]) -> list[Numbers]:
    half, found = len(own["kl"]) // 2, []
    for part in (slice(0, half), slice(half, 2 * half)):
        found.append(
            {
                "gold": float(own["gold"][part].mean()),
                "kl": float(own["kl"][part].mean()),
                "length": float(own["length"][part].mean()),
                "wins": [100 * win_rate(own["gold"][part], other["gold"][part]) for other in dpo],
                "drawn": [[round(float(g), 4) for g in row] for row in own["gold"][part]],
            }
        )
    return found


def win_rate(one: Float[np.ndarray, "P K"], other: Float[np.ndarray, "P K"]) -> float:
    """How often a continuation has a higher true reward than another policy's of the same opening, all pairs, ties as a half."""
    gaps = one[:, :, None] - other[:, None, :]
    return float((gaps > 0).mean() + 0.5 * (gaps == 0).mean())


def report(settings: FilmObjectivesSettings, results: StudyResults) -> StudyReport:
    """As that of the study `objectives`."""
    return reported(
        results,
        f"Win rates are by true reward, of {settings.answers} continuations of each held-out opening against {settings.answers} of DPO's.",
        f"The language model is tiny ({settings.layers} layers, {settings.width} wide, from scratch), and the true reward is a judge's of sentiment, in "
        "standard deviations of the reference's continuations. What is trained on ends where it was cut, after "
        f"{settings.tokens} tokens, so objectives that raise likelihoods write shorter. All objectives are given one learning rate.",
    )


STUDY = Study(
    title="All objectives on film reviews, tuned equally",
    question=(
        "Which objective of `prefer` is better than DPO when both are tuned and the policy is a language model? Each is trained by `prefer` itself on "
        "the same continuations of film reviews, judged by the same annotator, at its defaults and at five other settings."
    ),
    settings=FilmObjectivesSettings,
    cells=cells,
    work=work,
    report=report,
    prepare=prepare,
)
