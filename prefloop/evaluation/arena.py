"""The arena as text, as a page, and as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from prefloop.evaluation.curves import Series
from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.plots import DARK, LIGHT, STYLE, PlotRow, ReferenceLine, interval_chart, line_chart
from prefloop.evaluation.visible_text import shown
from prefloop.evaluation.wording import minus, number, percent
from prefloop.feedback.ratings import BASE, Interval, Leaderboard, LengthControlled, Rating

METHODS: Mapping[str, str] = {
    "bradley_terry": "Bradley-Terry, ties as half wins",
    "davidson": "Davidson's model of ties",
    "rao_kupper": "Rao and Kupper's model of ties",
    "plackett_luce": "Plackett-Luce, rankings included",
    "elo": "Elo, in the order of the votes",
}
MOST_LINES = 8
"""Models in the chart over rounds, as many as there are colours."""
MOST_IN_MATRIX = 12
"""Models in the table of win probabilities; more do not fit a page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arena:
    """The leaderboard of all votes, and of each round where that was asked for."""

    whole: Leaderboard
    rounds: Mapping[int, Leaderboard]
    left_out: Mapping[str, int]
    """Judgements that compare no two models, by reason."""
    baseline: str = ""
    """What `win_rates` are against; empty for none."""
    win_rates: Mapping[str, LengthControlled] = field(default_factory=dict)
    """Model -> win rate against the baseline."""
    parts: Mapping[str, Leaderboard] = field(default_factory=dict)
    """The leaderboard of each turn, language or judge, by what it is of, where that was asked for."""


def rounds_table(arena: Arena) -> str:
    """A line a model, a column a round: its rating in that round's votes alone."""
    rows = [("model", *(f"round {at}" for at in sorted(arena.rounds)))]
    for name in _models_of_rounds(arena):
        found = [_rating_in(arena.rounds[at], name) for at in sorted(arena.rounds)]
        rows.append((name, *(_with_interval(result) if result else "" for result in found)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(["ratings round by round", *(f"  {line}" for line in lines), f"! {_ROUNDS_NOTE}"])


_ROUNDS_NOTE = "each round is rated by its own votes, against the average (or the anchor) of the models in it: compare rounds with an anchor that is in all of them"


def _models_of_rounds(arena: Arena) -> list[str]:
    """Models of any round, those of the last one first and by rank."""
    boards = [arena.rounds[at] for at in sorted(arena.rounds, reverse=True)]
    return list(dict.fromkeys(row.name for board in boards for row in board.ratings))


def _rating_in(board: Leaderboard, name: str) -> Rating | None:
    return next((row for row in board.ratings if row.name == name), None)


def _with_interval(row: Rating) -> str:
    span = f" [{whole(row.rating.low)}, {whole(row.rating.high)}]" if math.isfinite(row.rating.low) else ""
    return f"{whole(row.rating.value)}{span}"


def rounds_chart(arena: Arena) -> str:
    """SVG: every model's rating over the rounds, with its interval."""
    rounds = sorted(arena.rounds)
    series = []
    for slot, name in enumerate(_models_of_rounds(arena)[:MOST_LINES], start=1):
        found = [_rating_in(arena.rounds[at], name) for at in rounds]
        value, low, high = (
            [getattr(result.rating, end) if result else math.nan for result in found]
            for end in ("value", "low", "high")
        )
        series.append(
            Series(label=name, x=[float(at) for at in rounds], y=value, low=low, high=high, slot=slot % 8)
        )
    return line_chart(
        series, title="Ratings over rounds", x_label="round", y_label="rating", references=[ReferenceLine(value=BASE, label="average or anchor")]
    )  # fmt: skip


def win_rate_table(arena: Arena) -> str:
    """Every model's win rate against the baseline: raw and at equal length."""
    rows = [_WIN_HEADINGS, *_win_cells(arena)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"win rate against {arena.baseline}", *(f"  {line}" for line in lines)])


_WIN_HEADINGS = ("model", "win rate", "95 %", "at equal length", "95 %", "prompts", "")


def _win_cells(arena: Arena) -> list[tuple[str, ...]]:
    return [
        (
            name,
            percent(win_rate.raw.value),
            _percents(*win_rate.raw.interval),
            percent(win_rate.controlled.value) if not win_rate.reason else "",
            _percents(win_rate.low, win_rate.high),
            str(win_rate.raw.n),
            f"no rate at equal length: {win_rate.reason}" if win_rate.reason else "",
        )
        for name, win_rate in sorted(arena.win_rates.items(), key=lambda item: -item[1].raw.value)
    ]


def _percents(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}" if math.isfinite(low) else ""


def leaderboard_table(board: Leaderboard) -> str:
    """A line a model, groups that cannot be compared apart, then style, the tie parameter and the warnings."""
    lines = [f"{METHODS[board.method]}; {basis(board)}"]
    groups = sorted({row.group for row in board.ratings})
    for group in groups:
        rows = [row for row in board.ratings if row.group == group]
        if len(groups) > 1:
            lines.append(f"group {group + 1} of {len(groups)}, not comparable with the others:")
        lines += _aligned([_HEADINGS, *(_cells(row) for row in rows)])
    if board.tie_parameter is not None:
        name = "ν" if board.method == "davidson" else "η"
        lines.append(f"ties: {name} {interval_words(board.tie_parameter, 2)}")
    if board.style:
        lines.append("style, change in the log-odds of winning per standard deviation:")
        lines += [f"  {feature.name} {interval_words(feature.value, 3)}" for feature in board.style]
    lines += [f"! {warning}" for warning in board.warnings]
    return "\n".join(lines)


def basis(board: Leaderboard) -> str:
    """What a leaderboard stands on, in words."""
    rankings = f" and {board.rankings} rankings" if board.rankings else ""
    text = f"{board.votes} votes{rankings} on {board.prompts} prompts by {board.annotators} annotators"
    if board.method == "elo":
        return text
    kept = {
        "vote": "",
        "prompt": " over prompts",
        "annotator": " over annotators",
        "both": " over prompts and annotators",
    }
    return f"{text}; 95 % intervals by {board.intervals}{kept[board.clusters]}"


_HEADINGS = ("rank", "model", "rating", "95 %", "votes", "wins", "losses", "ties", "both bad", "")


def _cells(row: Rating) -> tuple[str, ...]:
    return (
        rank_words(row),
        row.name,
        whole(row.rating.value),
        f"{whole(row.rating.low)} to {whole(row.rating.high)}" if math.isfinite(row.rating.low) else "",
        *(str(count) for count in (row.votes, row.wins, row.losses, row.ties, row.both_bad)),
        row.note,
    )


def rank_words(row: Rating) -> str:
    """`2 (1-3)`: the rank, and the ranks that the true one may be."""
    return (
        str(row.rank) if row.best_rank == row.worst_rank else f"{row.rank} ({row.best_rank}-{row.worst_rank})"
    )


def whole(value: float) -> str:
    """A rating without decimals."""
    return minus(f"{value:.0f}") if math.isfinite(value) else ""


def interval_words(value: Interval, digits: int) -> str:
    """Value and interval with so many decimals."""
    low, high = (minus(f"{edge:.{digits}f}") for edge in (value.low, value.high))
    return f"{minus(f'{value.value:.{digits}f}')} [{low}, {high}]"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = {1, len(widths) - 1}  # names and notes to the left, numbers to the right
    return [
        "  " + "  ".join(
            cell.ljust(width) if at in text else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]  # fmt: skip


def ratings_chart(rows: Sequence[Rating], *, title: str, votes: int) -> str:
    """SVG of one group's ratings with their intervals, the best on top."""
    estimates = [
        PlotRow(
            label=row.name,
            estimate=Estimate(value=row.rating.value, low=row.rating.low, high=row.rating.high, n=row.votes),
            slot=1 if not row.note else 0,
        )
        for row in rows
    ]
    return interval_chart(
        estimates, title=title, x_label="rating (400 points are odds of 10 to 1)", references=[ReferenceLine(value=BASE, label="average or anchor")]
    )  # fmt: skip


def arena_page(arena: Arena, *, title: str = "Arena") -> str:
    """One self-contained page: leaderboards, charts, win probabilities. No script, nothing loaded from anywhere."""
    boards = [
        ("All votes", arena.whole),
        *((f"Round {at}", board) for at, board in sorted(arena.rounds.items())),
        *((part[:1].upper() + part[1:], board) for part, board in arena.parts.items()),
    ]
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else shown(str(value)),
    )
    template = environment.from_string(
        files("prefloop.evaluation").joinpath("arena.html").read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        chart_style=Markup(STYLE),
        light=LIGHT,
        dark=DARK,
        boards=[_board(heading, board) for heading, board in boards],
        rounds_chart=Markup(rounds_chart(arena)) if len(arena.rounds) > 1 else "",
        rounds_note=_ROUNDS_NOTE,
        baseline=arena.baseline,
        win_headings=_WIN_HEADINGS,
        win_rows=_win_cells(arena),
        left_out=", ".join(
            f"{reason.replace('_', ' ')} {count}" for reason, count in sorted(arena.left_out.items())
        ),
    )


def _board(heading: str, board: Leaderboard) -> dict[str, object]:
    groups = []
    for group in sorted({row.group for row in board.ratings}):
        rows = [row for row in board.ratings if row.group == group]
        groups.append(
            {
                "chart": Markup(ratings_chart(rows, title=f"{heading}: ratings", votes=board.votes)),
                "rows": [_cells(row) for row in rows],
                "matrix": _matrix(board, [row.name for row in rows]),
                "names": [row.name for row in rows],
            }
        )
    return {
        "heading": heading,
        "method": METHODS[board.method],
        "basis": basis(board),
        "headings": _HEADINGS,
        "groups": groups,
        "style": [(feature.name, interval_words(feature.value, 3)) for feature in board.style],
        "ties": interval_words(board.tie_parameter, 2) if board.tie_parameter is not None else "",
        "warnings": board.warnings,
    }


def _matrix(board: Leaderboard, names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Win probabilities of row over column with intervals; none for Elo and where there are too many models."""
    if not board.probabilities or not 2 <= len(names) <= MOST_IN_MATRIX:
        return []

    def cell(first: str, second: str) -> tuple[str, str]:
        chance = board.probability(first, second)
        if chance is None:
            return ("–", "")
        return (percent(chance.value), f"{number(100 * chance.low)} to {number(100 * chance.high)}")

    return [[cell(first, second) for second in names] for first in names]
