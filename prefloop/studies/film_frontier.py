"""True reward against KL on film reviews, as in the sentiment task of the DPO paper: a small language model, each method swept over its strength."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefloop.data import write_jsonl
from prefloop.evaluation.json_files import read_json, write_json
from prefloop.studies.film_preferences import (
    COMPARED,
    Answers,
    PreferenceFilms,
    PreferenceSettings,
    TrueReward,
    answer,
    comparisons_of,
    fit_reward_model,
    heldout_prompts,
    judge_drawn,
    learn_offline,
    learn_online,
    prepare_preferences,
)
from prefloop.studies.films import Films, Learned, draw, read_prompts
from prefloop.studies.frontier import (
    BEST_OF_N,
    CLAIMS,
    OFFLINE,
    ONLINE,
    PPO_GOLD,
    claimed,
    drawing_of,
    table_of,
)
from prefloop.studies.study import (
    Numbers,
    Place,
    Study,
    StudyCell,
    StudyFigure,
    StudyReport,
    StudyResults,
)

BEST_OF_N_GOLD = "best of n, true reward"
LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""KL, in nats, at which frontiers are compared."""
OF_BEST_OF_N = (
    (BEST_OF_N, "ppo", "best of n gets more for its KL than reinforcement learning", "arXiv:2210.10760"),
    (BEST_OF_N, "dpo", "and more than DPO", "the same curves"),
)
FITTED = "reward_model.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmFrontierSettings(PreferenceSettings):
    """Settings of the study `film_frontier`."""

    prompts: int = 4000
    """Openings of which two continuations are compared, at most."""
    epochs: float = 2.0
    """Passes of the offline methods over the comparisons."""
    steps: int = 60
    """Of the methods that sample."""
    betas: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    """Of dpo, ipo and kto."""
    simpo_betas: tuple[float, ...] = (1.0, 2.5, 5.0, 10.0)
    kl_coefs: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """Of ppo, grpo and rloo."""
    ns: tuple[int, ...] = (2, 4, 8, 16, 32)


def cells(settings: FilmFrontierSettings) -> list[StudyCell]:
    """A method a cell: it is swept inside."""
    return [StudyCell(name=name) for name in (BEST_OF_N, BEST_OF_N_GOLD, *OFFLINE, *ONLINE, PPO_GOLD)]


def prepare(settings: FilmFrontierSettings, place: Place) -> None:
    """The world, the comparisons, and a reward model of them."""
    films = Films(settings=settings, place=place)
    prepare_preferences(films)
    prompts = read_prompts(films, "openings")[: settings.prompts]
    judged = judge_drawn(films, films.pretrained, prompts, k=2, seed=10_000 + place.seed)
    write_jsonl(comparisons_of(judged), films.file(COMPARED))
    write_json(place.prepared / FITTED, fit_reward_model(films, str(films.file(COMPARED))))


def work(settings: FilmFrontierSettings, cell: StudyCell, place: Place) -> Numbers:
    """The method's points."""
    films = Films(settings=settings, place=place)
    reward_model = str(read_json(place.prepared / FITTED))
    if cell.name in (BEST_OF_N, BEST_OF_N_GOLD):
        return {"points": best_of_n(films, reward_model, gold=cell.name == BEST_OF_N_GOLD)}
    points = []
    for strength in _strengths(settings, cell.name):
        model = _policy(films.marked(f"{strength:g}"), cell.name, strength, reward_model)
        points.append(_point(films, answer(films, model), reward_model, strength))
    return {"points": points}


def _policy(films: PreferenceFilms, method: str, strength: float, reward_model: str) -> str:
    settings: FilmFrontierSettings = films.settings
    if method in OFFLINE:
        file, given = str(films.file(COMPARED)), {"beta": strength}
        return learn_offline(films, OFFLINE[method], file, given, epochs=settings.epochs)
    gold = method == PPO_GOLD
    method, reward_model = ("ppo", "") if gold else (method, reward_model)
    return learn_online(films, method, steps=settings.steps, kl=strength, reward_model=reward_model)


def _strengths(settings: FilmFrontierSettings, method: str) -> Sequence[float]:
    if method == "simpo":
        return settings.simpo_betas
    return settings.betas if method in OFFLINE else settings.kl_coefs


def _point(films: PreferenceFilms, answers: Answers, reward_model: str, strength: float) -> dict[str, float]:
    prompts = [prompt for prompt in heldout_prompts(films) for _ in range(films.settings.answers)]
    proxy = Learned(reward_model)(prompts, [text for own in answers.texts for text in own])
    return {
        "strength": strength,
        "kl": float(answers.kl.mean()),
        "gold": float(answers.gold.mean()),
        "proxy": float(np.mean(proxy)),
        "length": float(answers.length.mean()),
    }


def best_of_n(films: PreferenceFilms, reward_model: str, *, gold: bool) -> list[dict[str, float]]:
    """Chosen from the reference's continuations of each held-out opening by the reward model, or by the true reward; each n from as many of them."""
    prompts, most = heldout_prompts(films), max(films.settings.ns)
    texts = draw(films.pretrained, prompts, films, k=most, seed=20_000).texts
    flat = [text for own in texts for text in own]
    asked = [prompt for prompt in prompts for _ in range(most)]
    true, proxy = (
        np.array(reward(asked, flat)).reshape(len(prompts), most)
        for reward in (TrueReward.of(films), Learned(reward_model))
    )
    points = []
    for n in films.settings.ns:
        groups = (len(prompts), most // n, n)
        each_true, each_proxy = (
            true[:, : most // n * n].reshape(groups),
            proxy[:, : most // n * n].reshape(groups),
        )
        best = (each_true if gold else each_proxy).argmax(2, keepdims=True)
        points.append(
            {
                "strength": n,
                "kl": math.log(n) - (n - 1) / n,
                "gold": float(np.take_along_axis(each_true, best, 2).mean()),
                "proxy": float(np.take_along_axis(each_proxy, best, 2).mean()),
            }
        )
    return points


def report(settings: FilmFrontierSettings, results: StudyResults) -> StudyReport:
    """The frontiers, and the claims about who is above whom."""
    names = (PPO_GOLD, BEST_OF_N_GOLD, BEST_OF_N, *OFFLINE, "ppo")
    return StudyReport(
        findings=tuple(claimed(results, LEVELS, (*CLAIMS, *OF_BEST_OF_N))),
        table=table_of(results, LEVELS),
        figure=StudyFigure(
            drawing=drawing_of(results, names),
            caption="true reward against KL to the reference (GRPO and RLOO are in the table)",
        ),
        remarks=(
            "The true reward is the judge's log-odds that a continuation is positive, in standard deviations of the reference's, whose mean is 0. KL "
            "is in nats per continuation: the exact KL of each next token, summed over the tokens that a policy drew. That of best of n is "
            "log n − (n − 1) / n. At each KL, seeds whose sweep does not reach it are left out; a dash means that none does. Between its points a "
            "method's frontier is a straight line, and it starts at the reference.",
            f"The language model is tiny ({settings.layers} layers, {settings.width} wide, from scratch), where the papers have GPT-2 or larger. Its text "
            f"is hardly English, but the judge counts words. Openings have {settings.opening} words, continuations {settings.tokens} tokens, and what is "
            "trained on ends where it was cut. The annotator errs. The reward model, best of n and the offline methods all learn from the same "
            "comparisons of the language model's own continuations.",
        ),
    )


STUDY = Study(
    title="Reward against KL on film reviews",
    question=(
        "Which method gets the most true reward for the KL it spends, with a language model that continues film reviews? This is the sentiment task "
        "of the DPO paper. A judge fitted on people's stars gives the true reward, and an annotator who errs compares continuations by it."
    ),
    settings=FilmFrontierSettings,
    cells=cells,
    work=work,
    report=report,
    prepare=prepare,
)
