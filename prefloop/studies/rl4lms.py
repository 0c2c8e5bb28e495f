"""RL4LMs' table (arXiv:2210.01241): reinforcement learning of language against supervision, on film reviews and on words put in order."""

from collections.abc import Sequence
from dataclasses import dataclass

from prefloop.errors import InputError
from prefloop.evaluation.plots import PlotRow, ReferenceLine, interval_chart
from prefloop.evaluation.wording import with_interval
from prefloop.studies.films import Films, fit_reward
from prefloop.studies.rl4lms_films import (
    agreement,
    demonstrate,
    learn,
    measure,
    prepare_films,
)
from prefloop.studies.rl4lms_sentences import (
    REWARDS,
    Ordering,
    longer,
    measure_ordering,
    prepare_ordering,
    reinforce,
)
from prefloop.studies.rl4lms_settings import RL4LMsSettings
from prefloop.studies.study import (
    Measure,
    Numbers,
    Place,
    Study,
    StudyCell,
    StudyFigure,
    StudyFinding,
    StudyReport,
    StudyResults,
    StudyTable,
    all_sure,
    sure,
)

ZERO, SUPERVISED, FREE = "zero-shot", "supervised", "ppo, no KL"
ORDERING, LONGER = "ordering", "supervised, a third longer"
METHODS = ("ppo", "nlpo", "a2c", "trpo")
PAPER = "RL4LMs, arXiv:2210.01241"


def cells(settings: RL4LMsSettings) -> list[StudyCell]:
    """The language model, supervision, each method from either, PPO without a KL, two ways to spend labels, and the second task."""
    for name in settings.methods:
        if name not in METHODS:
            raise InputError(f"methods has {name!r}, which is no method; there are {', '.join(METHODS)}")
    films = [
        StudyCell(name=ZERO),
        StudyCell(name=SUPERVISED),
        *(StudyCell(name=name, given={"method": name}) for name in settings.methods),
        *(StudyCell(name=after(name), given={"method": name, "after": True}) for name in settings.methods),
        StudyCell(name=FREE, given={"method": "ppo", "kl": 0.0}),
    ]
    budget = [
        StudyCell(name=spent(count, how), given={"labels": count, "how": how})
        for count in settings.labels
        for how in (SUPERVISED, "ppo")
    ]
    ordering = [
        StudyCell(name=f"{ORDERING}: {SUPERVISED}", given={"ordering": ""}),
        StudyCell(name=f"{ORDERING}: {LONGER}", given={"ordering": LONGER}),
        *(
            StudyCell(name=rewarded(method, reward), given={"ordering": method, "reward": reward})
            for method, reward in (("ppo", "BLEU"), ("nlpo", "BLEU"), ("ppo", "ROUGE-L"))
        ),
    ]
    return [*films, *budget, *ordering]


def after(method: str) -> str:
    """A method from the supervised policy."""
    return f"{SUPERVISED} + {method}"


def spent(count: int, how: str) -> str:
    """Labels that are demonstrations, or comparisons for a reward model that PPO learns from."""
    return f"{count} demonstrations" if how == SUPERVISED else f"{count} comparisons, ppo"


def rewarded(method: str, reward: str) -> str:
    """A method from the supervised encoder-decoder."""
    assert reward in REWARDS
    return f"{ORDERING}: {SUPERVISED} + {method}, {reward}"


def prepare(settings: RL4LMsSettings, place: Place) -> None:
    """Judge, language model, supervised policy and comparisons; sentences and a supervised encoder-decoder."""
    prepare_films(Films(settings=settings, place=place))
    prepare_ordering(Ordering(settings, place))


def work(settings: RL4LMsSettings, cell: StudyCell, place: Place) -> Numbers:
    """Train in one way, and measure on held-out openings or sentences."""
    given = cell.given
    if "ordering" in given:
        ordering, method = Ordering(settings, place), given["ordering"]
        if method in ("", LONGER):
            return measure_ordering(ordering, longer(ordering) if method else ordering.supervised)
        return measure_ordering(ordering, reinforce(ordering, method, given["reward"]))
    films = Films(settings=settings, place=place)
    if "labels" in given:
        return _spent(films, given["labels"], given["how"])
    if cell.name in (ZERO, SUPERVISED):
        model = films.supervised if cell.name == SUPERVISED else films.pretrained
        return measure(films, model, films.pretrained)
    start = films.supervised if given.get("after") else films.pretrained
    return measure(films, learn(films, given["method"], start=start, kl=given.get("kl")), start)


def _spent(films: Films[RL4LMsSettings], count: int, how: str) -> Numbers:
    if how == SUPERVISED:
        return measure(films, demonstrate(films, count), films.pretrained)
    model = fit_reward(films, films.data("compared", limit=count))
    policy = learn(films, "ppo", start=films.pretrained, reward_model=model)
    return {**measure(films, policy, films.pretrained), "agreement": agreement(films, model)}


def report(settings: RL4LMsSettings, results: StudyResults) -> StudyReport:
    """Sentiment beside naturalness and diversity, what labels buy, and the second task."""
    columns = {
        "sentiment, %": "sentiment",
        "positive, %": "positive",
        "log-odds": "odds",
        "perplexity of its text": "perplexity",
        "its perplexity of people's text": "of_people",
        "distinct-1, %": "distinct_1",
        "distinct-2, %": "distinct_2",
        "entropy of words": "entropy_1",
        "of pairs": "entropy_2",
        "tokens": "length",
        "KL": "kl",
    }
    films = [name for name in results.numbers if not name.startswith(ORDERING)]
    rows = tuple((name, *(results.mean(name, measured) for measured in columns.values())) for name in films)
    return StudyReport(
        findings=tuple(_findings(settings, results)),
        table=StudyTable(columns=("policy", *columns), rows=rows),
        further=(_budget(settings, results), _ordering(results)),
        figure=StudyFigure(
            drawing=_drawing(films, results),
            caption="sentiment of continuations, by how a policy was trained",
        ),
        remarks=(
            "Sentiment is the mean probability of being positive under a judge fitted on stars of other films' reviews; as in the paper the judge is "
            f"also the reward (its log-odds). The language model is tiny ({settings.layers} layers, {settings.width} wide, {settings.pretraining} steps "
            f"from scratch) where the paper has GPT-2. Openings have {settings.opening} words and completions {settings.tokens} tokens. Every method "
            f"draws {settings.steps} times {settings.batch} completions, TRPO a quarter of that, as its steps take longer. The KL is that of a whole completion, to the model that training started from. "
            "The perplexity of its text is under the language model. The paper's perplexity is the policy's own of people's text, which is the "
            f"column after it. N-grams are counted in {settings.counted} words of each policy.",
            "The annotator of the comparisons is the judge with noise. A demonstration and a comparison count as one label each.",
            "Ordering: the words of a short sentence in the alphabet's order are to be put into the order of the sentence, by an encoder-decoder "
            "trained from scratch. The scores are of likeliest completions unless they are called drawn. `supervised, a third longer` is given "
            "more passes over the references instead of reinforcement learning.",
            "The paper's figures are not repeated here: only its claims were checked, and its models and its judge are others.",
        ),
    )


def _budget(settings: RL4LMsSettings, results: StudyResults) -> StudyTable:
    rows = tuple(
        (
            count,
            results.mean(spent(count, SUPERVISED), "sentiment"),
            results.mean(spent(count, "ppo"), "sentiment"),
            results.difference(spent(count, "ppo"), spent(count, SUPERVISED), "sentiment"),
            results.mean(spent(count, "ppo"), "agreement"),
        )
        for count in settings.labels
    )
    columns = (
        "labels",
        "sentiment after demonstrations, %",
        "after PPO on a reward model of comparisons, %",
        "difference",
        "agreement of the reward model with the judge, %",
    )
    return StudyTable(columns=columns, rows=rows)


def _ordering(results: StudyResults) -> StudyTable:
    columns = {
        "BLEU": "bleu",
        "ROUGE-1": "rouge1",
        "ROUGE-2": "rouge2",
        "ROUGE-L": "rougeL",
        "all words used once, %": "used",
        "BLEU, drawn": "drawn_bleu",
        "ROUGE-L, drawn": "drawn_rougeL",
        "all words used once, drawn, %": "drawn_used",
    }
    rows = tuple(
        (name, *(results.mean(name, measured) for measured in columns.values()))
        for name in results.numbers
        if name.startswith(ORDERING)
    )
    return StudyTable(columns=("encoder-decoder", *columns), rows=rows)


@dataclass(frozen=True, slots=True)
class _Claim:
    """That in every pair of cells the first measures more than the second."""

    expected: str
    pairs: Sequence[tuple[str, str]]
    measured: Measure
    what: str

    def found(self, results: StudyResults) -> StudyFinding:
        gaps = {one: results.difference(one, other, self.measured) for one, other in self.pairs}
        said = ", ".join(f"{with_interval(gap)} ({name})" for name, gap in gaps.items())
        return StudyFinding(
            expected=self.expected,
            source=PAPER,
            found=f"{self.what}: {said}",
            holds=all_sure(sure(gap, above=0.0) for gap in gaps.values()),
        )


def _of_methods(settings: RL4LMsSettings) -> list[_Claim]:
    methods = settings.methods
    claims = [
        _Claim(
            "reinforcement learning gets more sentiment than supervision",
            [(name, SUPERVISED) for name in methods],
            "sentiment",
            "points more than the supervised policy",
        ),
        _Claim(
            "supervision before reinforcement learning gets more sentiment than reinforcement learning alone",
            [(after(name), name) for name in methods],
            "sentiment",
            "points more than without supervision",
        ),
    ]
    if {"ppo", "nlpo"} <= set(methods):
        pairs = [("nlpo", "ppo"), (after("nlpo"), after("ppo"))]
        claims += [
            _Claim("NLPO gets more sentiment than PPO", pairs, "sentiment", "points more than PPO"),
            _Claim(
                "NLPO's text is more natural than PPO's",
                pairs,
                lambda numbers: -numbers["perplexity"],
                "perplexity lower than PPO's",
            ),
        ]
    return claims


def _of_labels(settings: RL4LMsSettings) -> list[_Claim]:
    claims = [
        _Claim(
            "labels for a reward model are worth more than as many demonstrations",
            [(spent(count, "ppo"), spent(count, SUPERVISED)) for count in settings.labels],
            "sentiment",
            "points more than the demonstrations",
        )
    ]
    if len(settings.labels) > 1:
        least, most = min(settings.labels), max(settings.labels)
        claims.append(
            _Claim(
                f"a reward model of few labels does better than {most / least:.3g} times as many demonstrations (five times there)",
                [(spent(least, "ppo"), spent(most, SUPERVISED))],
                "sentiment",
                f"points more than {most} demonstrations",
            )
        )
    return claims


_OF_KL = (
    _Claim(
        "without a KL, PPO gets more sentiment",
        [(FREE, "ppo")],
        "sentiment",
        "points more than with it",
    ),
    _Claim(
        "without a KL, its text is less natural",
        [(FREE, "ppo")],
        "of_people",
        "its perplexity of people's text is higher by",
    ),
    _Claim(
        "without a KL, its text is less diverse",
        [(FREE, "ppo")],
        lambda numbers: -numbers["distinct_2"],
        "distinct-2 is lower by",
    ),
)
_SUPERVISED_ORDER = f"{ORDERING}: {SUPERVISED}"
_REWARDED_ORDER = (rewarded("ppo", "BLEU"), rewarded("nlpo", "BLEU"))
_OF_ORDERING = (
    _Claim(
        "on a text-to-text task, reinforcement learning after supervision gets more BLEU than supervision",
        [(name, _SUPERVISED_ORDER) for name in _REWARDED_ORDER],
        "bleu",
        "more than supervised, of likeliest completions",
    ),
    _Claim(
        "and of drawn completions too",
        [(name, _SUPERVISED_ORDER) for name in _REWARDED_ORDER],
        "drawn_bleu",
        "more than supervised, of drawn completions",
    ),
    _Claim(
        "and more than the same supervision for longer",
        [(name, f"{ORDERING}: {LONGER}") for name in _REWARDED_ORDER],
        "bleu",
        "more than supervised for longer, of likeliest completions",
    ),
    _Claim(
        "NLPO gets more BLEU than PPO",
        [(_REWARDED_ORDER[1], _REWARDED_ORDER[0])],
        "bleu",
        "more than PPO, of likeliest completions",
    ),
)


def _findings(settings: RL4LMsSettings, results: StudyResults) -> list[StudyFinding]:
    """The paper's claims: of methods, of the KL, of labels, of an encoder-decoder."""
    claims = [*_of_methods(settings), *_OF_KL, *_of_labels(settings), *_OF_ORDERING]
    return [claim.found(results) for claim in claims]


def _drawing(films: Sequence[str], results: StudyResults) -> str:
    def slot(name: str) -> int:
        return 1 if name in (ZERO, SUPERVISED) else 3 if name[0].isdigit() else 2

    rows = [PlotRow(label=name, estimate=results.mean(name, "sentiment"), slot=slot(name)) for name in films]
    return interval_chart(
        rows,
        title="Sentiment of continuations",
        x_label="mean probability of being positive, %",
        references=[ReferenceLine(value=results.mean(ZERO, "sentiment").value, label=ZERO)],
    )


STUDY = Study(
    title="Reinforcement learning of language against supervision",
    question=(
        "Is reinforcement learning better than supervision at making text positive, at what cost in naturalness and diversity, and does it "
        "help to be supervised first? PPO, NLPO, A2C and TRPO continue film reviews. Then: what are labels best spent on, demonstrations "
        "or comparisons for a reward model? And does a metric of text as the reward improve an encoder-decoder that has learned from references?"
    ),
    settings=RL4LMsSettings,
    cells=cells,
    work=work,
    report=report,
    prepare=prepare,
)
