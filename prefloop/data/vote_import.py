"""Votes of a file into the store: prompts, the answers by the models that gave them, and who preferred which.

A store holds texts, so votes come with the answers that they are about, in their own file or in one beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefloop.data.importing import add_written
from prefloop.data.store import Judgement, Store
from prefloop.data.store.values import AnnotatorKind
from prefloop.data.vote_rows import Vote, VoteChoice
from prefloop.data.votes import VoteFile
from prefloop.errors import InputError
from prefloop.records import Prompt

OTHER_SIDE: dict[VoteChoice, VoteChoice] = {"a": "b", "b": "a", "tie": "tie", "both_bad": "both_bad"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedVotes:
    """What an import found; what the store had already is counted too."""

    prompts: int
    completions: int
    models: tuple[str, ...]
    votes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SettledVotes:
    """Votes that a store has a place for, one for what an annotator judged."""

    votes: tuple[Vote, ...]
    """Each with its judge named."""
    default: str
    """Who judged where the file does not say; empty if the user named them."""
    source: str
    repeated: int
    """Votes that say again what the same annotator said of the same answers."""
    identical: int
    """Votes between two answers of one text, or of one model with itself: nobody can prefer one."""
    bad: tuple[str, ...]
    """Votes left out because they contradict an earlier one by the same annotator."""


def settle(file: VoteFile, *, annotator: str = "", skip_bad: bool = False) -> SettledVotes:
    """The votes of a file as a store takes them. `annotator` judged where a row does not say who did; without it they are named after the file.

    Raises `InputError` for votes without texts or prompts, soft preferences, and an annotator who says the opposite of an earlier vote;
    `skip_bad` leaves the last out and lists them.
    """
    _check(file)
    default = annotator or Path(file.source).name
    votes = [
        vote for vote in file.votes if vote.texts[0] != vote.texts[1] and vote.models[0] != vote.models[1]
    ]
    if not votes:
        raise InputError(
            f"{file.source}: every vote compares identical answers, so there is nothing to import"
        )
    settled, repeated, bad = _settle([replace(vote, judge=vote.judge or default) for vote in votes])
    if bad and not skip_bad:
        raise InputError(
            f"{bad[0]}{f' (and {len(bad) - 1} more like it)' if len(bad) > 1 else ''}; "
            "correct it, or set skip_bad to leave such rows out, counted and listed"
        )
    return SettledVotes(
        votes=tuple(settled),
        default="" if annotator else default,
        source=file.source,
        repeated=repeated,
        identical=len(file.votes) - len(votes),
        bad=tuple(bad),
    )


def import_votes(
    store: Store,
    settled: SettledVotes,
    *,
    annotator_kind: AnnotatorKind = "human",
    round: int = 0,
    tags: Sequence[str] = (),
) -> ImportedVotes:
    """Write votes into the store. Running it again adds nothing."""
    votes, source = settled.votes, settled.source
    written = [
        (vote.prompt, text, model)
        for vote in votes
        for text, model in zip(vote.texts, vote.models, strict=True)
    ]
    models = tuple(sorted({model for _, _, model in written}))
    whole = str(Path(source).resolve()) if Path(source).exists() else source
    who = {
        name: store.add_annotator(
            name,
            kind=annotator_kind,
            settings={"source": whole} if name == settled.default else {},
        )
        for name in sorted({vote.judge for vote in votes})
    }
    store.add_prompts([vote.prompt for vote in votes], tags=tags, origin=source)
    ids: dict[tuple[Prompt, str, str], int] = {}
    for model in models:
        of_model = [(prompt, text) for prompt, text, name in written if name == model]
        found = add_written(store, of_model, model)
        ids |= {(prompt, text, model): id for (prompt, text), id in found.items()}
    groups = [[ids[vote.prompt, vote.texts[at], vote.models[at]] for at in (0, 1)] for vote in votes]
    items = store.add_items(groups, kind="pair", strategy="import", round=round)
    slots = {item.id: item.completions for item in store.items(sorted(set(items)))}
    judgements = []
    for vote, item in zip(votes, items, strict=True):
        same = slots[item][0] == vote.texts[0]
        judgements.append(
            Judgement(
                item=item,
                annotator=who[vote.judge],
                choice=vote.choice if same else OTHER_SIDE[vote.choice],
                order_shown=(0, 1) if same else (1, 0),
                idempotency_key=f"import {who[vote.judge]} {item}",
            )
        )
    store.add_judgements(judgements)
    return ImportedVotes(
        prompts=len({vote.prompt for vote in votes}),
        completions=len(ids),
        models=models,
        votes=len(votes),
    )


def _check(file: VoteFile) -> None:
    """Raise `InputError` for what a store has no place for."""
    if not file.has_texts:
        raise InputError(
            f"{file.source}: holds votes without the answers, and a store holds texts; name a file of the answers with --outputs "
            f"(columns prompt_id, prompt, model, completion), or rate the votes without a store: prefloop arena {file.source}"
        )
    bare = [vote for vote in file.votes if not vote.prompt.content]
    if bare:
        raise InputError(
            f"{bare[0].origin}: the prompt is missing ({len(bare)} of {len(file.votes)} votes have none); "
            "add a column prompt with its text, here or in the file of answers"
        )
    soft = [vote for vote in file.votes if vote.p_first not in (0.0, 0.5, 1.0)]
    if soft:
        raise InputError(
            f"{soft[0].origin}: preference is {2 - soft[0].p_first:g}, a probability ({len(soft)} votes have one); a store keeps single "
            f"judgements: rate the file itself (prefloop arena {file.source}), or round the preferences to 1, 1.5 and 2"
        )


def _settle(votes: Sequence[Vote]) -> tuple[list[Vote], int, list[str]]:
    """One vote for what an annotator judged: repeats are counted, contradictions named."""
    first: dict[tuple[str, Prompt, frozenset[tuple[str, str]]], Vote] = {}
    repeated, bad = 0, []
    for vote in votes:
        sides = frozenset(zip(vote.models, vote.texts, strict=True))
        known = first.setdefault((vote.judge, vote.prompt, sides), vote)
        if known is vote:
            continue
        choice = vote.choice if known.models == vote.models else OTHER_SIDE[vote.choice]
        if choice == known.choice:
            repeated += 1
        else:
            bad.append(f"{vote.origin}: {vote.judge} judges this differently in {known.origin}")
    return list(first.values()), repeated, bad
