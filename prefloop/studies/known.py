"""The studies by name, with what each costs. None is imported before it is run."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import yaml

from prefloop.configs.load import Given, Mismatch, Tree, accept, load_config, types_of, unknown
from prefloop.configs.study import Size
from prefloop.errors import InputError
from prefloop.studies.study import Study, StudySettings

SETTINGS = Path(__file__).with_name("settings")


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A study's line in the list."""

    summary: str
    study: str
    """`module:Study`."""
    minutes: float
    """Processor minutes of size `small`, as measured on a CPU, or estimated from cells that were measured."""
    reads: str = ""
    """The data set that `--data` must name; empty where it reads none."""
    starts: str = ""
    """The kind of model that `--model` must name; empty where it starts from none."""


FILMS = "film reviews with stars, such as the Large Movie Review Dataset's 25,000 for training"

STUDIES: Mapping[str, Known] = {
    "votes": Known(
        summary="ratings from few votes: active against uniform pairs, and win rates at equal length against the published ones",
        study="prefloop.studies.votes:STUDY",
        minutes=1.2,
        reads="AlpacaEval's votes.csv.gz and outputs.jsonl.gz",
    ),
    "frontier": Known(
        summary="reward against KL: DPO, IPO, KTO, SimPO, PPO, GRPO, RLOO and best-of-n beside the exact optimum",
        study="prefloop.studies.frontier:STUDY",
        minutes=3.0,
    ),
    "overoptimisation": Known(
        summary="true reward against √KL: size and data of the reward model, size of the policy, KL penalty, and when the alarm rings",
        study="prefloop.studies.overoptimisation:STUDY",
        minutes=3.9,
    ),
    "objectives": Known(
        summary="all objectives of `prefer`, tuned equally: which is better than DPO",
        study="prefloop.studies.objectives:STUDY",
        minutes=2.0,
    ),
    "ppo_tricks": Known(
        summary="PPO-max's tricks, one off and one on at a time: which of them matter",
        study="prefloop.studies.ppo_tricks:STUDY",
        minutes=0.4,
    ),
    "rounds": Known(
        summary="rounds of comparisons of the current policy against one shot with as many labels, and Elo by round",
        study="prefloop.studies.rounds:STUDY",
        minutes=1.5,
    ),
    "rlaif": Known(
        summary="labels by an AI judge with planted biases against people's at equal cost, distilled, direct and after revisions (constitutional AI)",
        study="prefloop.studies.rlaif:STUDY",
        minutes=0.6,
    ),
    "judges": Known(
        summary="AI judges against people's and GPT-4's choices: agreement, and bias for position and length, with one order and both",
        study="prefloop.studies.judges:STUDY",
        minutes=21.0,  # from four seeds
        reads="alpaca-eval/comparisons.jsonl.gz and hh-harmless/train.jsonl.gz",
        starts="a chat model such as SmolLM2-135M-Instruct",
    ),
    "walks": Known(
        summary="trlX's random walks: ILQL by decoding beta beside PPO and expert iteration",
        study="prefloop.studies.walks:STUDY",
        minutes=4.0,
    ),
    "rl4lms": Known(
        summary="RL4LMs' table: PPO, NLPO, A2C and TRPO against supervision on film reviews, what labels buy, and a text-to-text task",
        study="prefloop.studies.rl4lms:STUDY",
        minutes=26.0,  # from the cells of one seed
        reads=FILMS,
    ),
    "film_frontier": Known(
        summary="reward against KL on film reviews: DPO, IPO, KTO, SimPO, PPO, GRPO, RLOO and best-of-n with a language model",
        study="prefloop.studies.film_frontier:STUDY",
        minutes=33.0,
        reads=FILMS,
    ),
    "film_rounds": Known(
        summary="rounds against one shot on film reviews: a language model, PPO, reward models refitted or not, and Elo by round",
        study="prefloop.studies.film_rounds:STUDY",
        minutes=26.0,
        reads=FILMS,
    ),
    "film_objectives": Known(
        summary="all objectives of `prefer` on film reviews, tuned equally, with a language model",
        study="prefloop.studies.film_objectives:STUDY",
        minutes=52.0,
        reads=FILMS,
    ),
    "control": Known(
        summary="CartPole, Acrobot and a swimmer from a simulated person's comparisons: return by number of labels beside the true reward",
        study="prefloop.studies.control:STUDY",
        minutes=31.0,
    ),
    "reward_models": Known(
        summary="accuracy of reward models by data and size; length bias, pretraining, filtering, contexts, density ratios",
        study="prefloop.studies.reward_models:STUDY",
        minutes=93.0,
        reads="alpaca-eval/comparisons.jsonl.gz and hh-harmless/train.jsonl.gz",
        starts="a chat model such as SmolLM2-135M-Instruct",
    ),
}
"""In the order in which `all` runs them and the page shows them."""


def find_study(name: str) -> Study:
    """The study of a name. Raises `InputError`, with the nearest one, for a name that there is not."""
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1)
        way = f"did you mean {near[0]}?" if near else f"the studies are {', '.join(STUDIES)}"
        raise InputError(f"name is {name!r}, which is not a study; {way}")
    module, _, attribute = STUDIES[name].study.partition(":")
    return getattr(import_module(module), attribute)


def settings_of(name: str, *, size: Size, given: Sequence[str] = (), seeds: int = 0) -> StudySettings:
    """A study's settings of a size, with NAME=VALUE over them. Raises `InputError` as `load_config` does."""
    cls = find_study(name).settings
    over: Tree = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or key not in types_of(cls):
            raise InputError(f"settings has {word!r}: {unknown(key, cls) if equals else 'write NAME=VALUE'}")
        try:
            over[key] = Given(
                value=accept(yaml.safe_load(value), types_of(cls)[key]), where=f"settings {key}"
            )
        except (Mismatch, yaml.YAMLError) as error:
            raise InputError(f"settings has {word!r}; {key} must be {error}") from None
    if seeds:
        over["seeds"] = Given(value=seeds, where="--seeds")
    return load_config(cls, SETTINGS / name / f"{size}.yaml", over)


def listing() -> str:
    """What `prefloop study --list` prints."""
    lines, width = [], max(map(len, STUDIES))
    for name, known in STUDIES.items():
        lines.append(f"{name:{width}}  {known.summary}")
        reads = f"; reads {known.reads} (--data FOLDER)" if known.reads else ""
        starts = f"; starts from {known.starts} (--model FOLDER)" if known.starts else ""
        lines.append(f"{'':{width}}  {known.minutes:g} processor minutes at size small{reads}{starts}")
    return "\n".join(lines)
