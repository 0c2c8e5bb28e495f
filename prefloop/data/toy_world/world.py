"""The toy world's generator: documents to pretrain on, questions, and replies that are good, middling and bad.

Everything follows from the seed and from `random.Random.random`, the one method whose sequence Python promises to keep, so a
seed gives the same world on every platform and version. The first n of anything are the same however many are asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal, TypeVar

from prefloop.data.toy_world import words
from prefloop.data.toy_world.gold import FAIR_WORDS, FULL_STEPS, asked
from prefloop.data.toy_world.words import KINDS, Kind, Subject
from prefloop.errors import InputError
from prefloop.records import Demonstration, Message, Prompt, Text

T = TypeVar("T")
Manner = Literal["kind", "plain", "rude"]
Topic = Literal["named", "unnamed", "other"]

LONGEST = FAIR_WORDS
"""Filler is written only while the reply stays within so many words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """The choices behind one reply. Each moves a component of the gold utility of its own."""

    opening: Manner
    topic: Topic
    """`other` answers about another subject of the same kind."""
    steps: int
    """Concrete steps, 0 to 4; without any, a vague sentence stands in."""
    filler: int
    """Sentences that say nothing, 0 to 2."""
    closing: Manner
    cut: bool
    """Whether the reply breaks off in its last sentence."""


BEST = Style(opening="kind", topic="named", steps=FULL_STEPS, filler=0, closing="kind", cut=False)


@dataclass(frozen=True, slots=True)
class ToyWorld:
    """The world of one seed."""

    seed: int = 0

    def texts(self, n: int) -> list[Text]:
        """`n` documents: instructions, animal stories, village days, letters and overheard questions with their replies.

        Raises:
            InputError: `n` is negative.
        """
        _require_count("texts", n)
        rng = self._rng("texts")
        return [
            Text(text=_pick(rng, _DOCUMENTS)(rng), origin=f"toy world {self.seed}, text {i}")
            for i in range(n)
        ]

    def prompts(self, n: int) -> list[Prompt]:
        """`n` different questions, each a chat of one user message.

        Raises:
            InputError: `n` is negative or more than there are.
        """
        _require_count("prompts", n)
        questions = _all_questions()
        if n > len(questions):
            raise InputError(f"prompts is {n}; the toy world has {len(questions)} different questions")
        order = list(range(len(questions)))
        rng = self._rng("prompts")
        for i in range(n):  # the first n steps of a Fisher-Yates shuffle
            j = i + int(rng.random() * (len(order) - i))
            order[i], order[j] = order[j], order[i]
        return [
            Prompt(content=(Message(role="user", content=_write_question(questions[i])),)) for i in order[:n]
        ]

    def demonstrations(self, n: int) -> list[Demonstration]:
        """`n` replies of mixed quality. The i-th answers the i-th of `prompts`; past the last, the questions come round again.

        Raises:
            InputError: `n` is negative.
        """
        _require_count("demonstrations", n)
        rng = self._rng("demonstrations")
        prompts = self.prompts(min(n, len(_all_questions())))
        return [
            Demonstration(
                prompt=prompt,
                completion=write_reply(prompt, draw_style(rng), rng),
                origin=f"toy world {self.seed}, demonstration {i}",
            )
            for i, prompt in enumerate(prompts[i % len(prompts)] for i in range(n))
        ]

    def _rng(self, stream: str) -> Random:
        return Random(f"prefloop toy world / {self.seed} / {stream}")


def best_reply(prompt: Prompt) -> str:
    """A reply with the highest gold utility there is; one prompt always gets the same.

    Raises:
        InputError: the prompt asks about nothing in the toy world.
    """
    return write_reply(prompt, BEST, Random(f"best reply / {prompt.sha256}"))


def write_reply(prompt: Prompt, style: Style, rng: Random) -> str:
    """A reply to `prompt` in a given style.

    Raises:
        InputError: the prompt asks about nothing in the toy world.
    """
    return _reply(*asked(prompt), style, rng)


def draw_style(rng: Random) -> Style:
    """A style as people in this world happen to have it: every choice is drawn by itself, so good and bad traits mix freely."""
    return Style(
        opening=_weighted(rng, {"kind": 0.3, "plain": 0.4, "rude": 0.3}),
        topic=_weighted(rng, {"named": 0.5, "unnamed": 0.25, "other": 0.25}),
        steps=_weighted(rng, {0: 0.25, 1: 0.3, 2: 0.25, 3: 0.2}),
        filler=_weighted(rng, {0: 0.4, 1: 0.35, 2: 0.25}),
        closing=_weighted(rng, {"kind": 0.3, "plain": 0.45, "rude": 0.25}),
        cut=_weighted(rng, {False: 0.85, True: 0.15}),
    )


def _reply(kind: Kind, subject: Subject, style: Style, rng: Random) -> str:
    if style.topic == "other":
        subject = _pick(rng, [other for other in kind.subjects if other is not subject])
    lead = "" if style.topic == "unnamed" else _pick(rng, kind.leads).format(s=subject.phrase)
    body = _instructions(kind, subject, lead, style.steps, rng)
    opening = {"kind": words.KIND_OPENINGS, "plain": (), "rude": words.RUDE_OPENINGS}[style.opening]
    closing = {"kind": words.KIND_CLOSINGS, "plain": (), "rude": words.RUDE_CLOSINGS}[style.closing]
    frame = [[_pick(rng, sentences)] if sentences else [] for sentences in (opening, closing)]
    room = LONGEST - _count_words([*frame[0], *body, *frame[1]])
    for filler in _some(rng, words.FILLER, style.filler):
        if len(filler.split()) <= room:
            body.insert(int(rng.random() * (len(body) + 1)), filler)
            room -= len(filler.split())
    reply = " ".join([*frame[0], *body, *frame[1]])
    return _break_off(reply, rng) if style.cut else reply


def _instructions(kind: Kind, subject: Subject, lead: str, count: int, rng: Random) -> list[str]:
    """The lead and `count` steps in order, as sentences."""
    introduces = lead.endswith(",")
    if count == 0:
        vague = _pick(rng, words.VAGUE)
        return [_sentence(f"{lead} {vague[0].lower()}{vague[1:]}" if introduces else f"{lead} {vague}")]
    before = [_sentence(lead)] if lead and not introduces else []
    steps = _some(rng, subject.steps, count)
    if kind.told:
        return [*before, *(_sentence(f"{step}.") for step in steps)]
    listed = lead if introduces else words.FIRST_STEP if count > 1 else words.ONLY_STEP
    for at, step in enumerate(steps):
        joints = (" ",) if at == 0 else words.LAST_JOINTS if at == count - 1 else words.MIDDLE_JOINTS
        listed += _pick(rng, joints) + step
    return [*before, f"{listed}."]


def _sentence(text: str) -> str:
    text = text.strip()
    return text[0].upper() + text[1:]


def _break_off(reply: str, rng: Random) -> str:
    """The reply without its last one to three words, so that its last sentence has no end."""
    pieces = reply.split()
    kept = pieces[: -(1 + int(rng.random() * 3))]
    return " ".join(kept).rstrip(".!,") if kept else pieces[0].rstrip(".!,")


def _conversation(rng: Random) -> str:
    question = _all_questions()[int(rng.random() * len(_all_questions()))]
    first, second = _some(rng, words.PEOPLE, 2)
    reply = _reply(question[0], question[2], draw_style(rng), rng)
    return f"{_sentence(first)} asked {second}: {_write_question(question)} {_sentence(second)} said: {reply}"


def _guide(rng: Random) -> str:
    kind = _pick(rng, [kind for kind in KINDS if not kind.told])
    subject = _pick(rng, kind.subjects)
    lead = _pick(rng, kind.leads).format(s=subject.phrase)
    sentences = _instructions(kind, subject, lead, 4, rng)
    if rng.random() < 0.5:
        sentences.append(_pick(rng, words.KIND_CLOSINGS))
    return " ".join(sentences)


def _animal_story(rng: Random) -> str:
    subject = _pick(rng, words.STORIES.subjects)
    lead = _pick(rng, words.STORIES.leads).format(s=subject.phrase)
    ending = [_pick(rng, words.EVENINGS)] if rng.random() < 0.5 else []
    return " ".join([*_instructions(words.STORIES, subject, lead, 4, rng), *ending])


def _village_day(rng: Random) -> str:
    sentences = [f"It was a {_pick(rng, words.WEATHER)} {_pick(rng, words.TIMES)} in the valley."]
    for person in _some(rng, words.PEOPLE, 2):
        sentences.append(_pick(rng, words.SCENES))
        sentences.append(_sentence(f"{person} {_deed(rng)}."))
    return " ".join([*sentences, _pick(rng, words.EVENINGS)])


def _letter(rng: Random) -> str:
    writer, reader = _some(rng, words.PEOPLE, 2)
    kind = _pick(rng, KINDS)
    subject = _pick(rng, kind.subjects)
    deed = kind.deed.format(s=subject.phrase)
    return (
        f"Dear {reader}, last week I {deed}. {_pick(rng, words.FEELINGS)} "
        f"You always said: {_pick(rng, subject.steps)}. {_pick(rng, words.KIND_CLOSINGS)} Your {writer}."
    )


_DOCUMENTS: tuple[Callable[[Random], str], ...] = (
    _conversation,
    _conversation,
    _conversation,
    _guide,
    _guide,
    _animal_story,
    _village_day,
    _letter,
)
"""What a document can be; repeated ones come more often."""


def _deed(rng: Random) -> str:
    kind = _pick(rng, KINDS)
    return kind.deed.format(s=_pick(rng, kind.subjects).phrase)


_Question = tuple[Kind, str, Subject, str, str]


@cache
def _all_questions() -> list[_Question]:
    return [
        (kind, question, subject, detail, greeting)
        for kind in KINDS
        for question in kind.questions
        for subject in kind.subjects
        for detail in kind.details
        for greeting in words.GREETINGS
    ]


def _write_question(question: _Question) -> str:
    _, template, subject, detail, greeting = question
    return greeting + template.format(s=subject.phrase, d=detail)


def _require_count(what: str, n: int) -> None:
    if n < 0:
        raise InputError(f"{what} is {n}; it must be 0 or more")


def _count_words(sentences: Sequence[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)


def _pick(rng: Random, items: Sequence[T]) -> T:
    return items[int(rng.random() * len(items))]


def _some(rng: Random, items: Sequence[T], count: int) -> list[T]:
    """`count` different items, in their own order."""
    left, chosen = count, []
    for at, item in enumerate(items):
        if rng.random() * (len(items) - at) < left:
            chosen.append(item)
            left -= 1
    return chosen


def _weighted(rng: Random, shares: dict[T, float]) -> T:
    at = rng.random()
    for item, share in shares.items():
        at -= share
        if at < 0:
            return item
    return next(reversed(shares))  # the shares add up to one only to rounding
