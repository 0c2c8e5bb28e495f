"""Conversations are played in rounds: all that go on draw a turn together, then their environments answer at the same time.

The first turns of a prompt's conversations are drawn as completions of one turn are, so an environment that ends every conversation there
changes nothing in a run. Later turns read their conversation anew.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from prefloop.configs.environments import EnvironmentSettings
from prefloop.configs.functions import shown, told
from prefloop.environments.calls import Call, Caller
from prefloop.environments.environment import (
    Environment,
    EnvironmentAnswer,
    Maker,
    answer_in,
    opening_in,
    takes_seed,
)
from prefloop.errors import InputError
from prefloop.records import Message, Prompt
from prefloop.rollout.episodes import End, Episode, Episodes, EpisodeTurn
from prefloop.rollout.sampler import Sampled
from prefloop.text import decode_completions
from prefloop.text.groups import Group
from prefloop.text.turns import ChatOpening, Rewritten, ends_turn, open_chat, reply

log = logging.getLogger(__name__)

Checked = TypeVar("Checked")


class Draw(Protocol):
    """Draws the policy's turns."""

    def __call__(
        self, ids: Sequence[Sequence[int]], keys: Sequence[int], /, *, k: int
    ) -> list[list[Sampled]]:
        """k completions of each of these prompts, which have these keys."""
        ...


KEY_BITS = 40
"""Bits of a key that say which prompt; above them stand the later turns of its conversations."""


@dataclass(slots=True, kw_only=True)
class _Talk:
    """A conversation while it is played."""

    prompt: Prompt
    key: int
    number: int
    """Which of its prompt's conversations."""
    environment: Environment | None = None
    prompt_ids: list[int] = field(default_factory=list)
    so_far: ChatOpening = field(default_factory=lambda: ChatOpening(messages=(), text="", ids=[]))
    """Up to where the policy speaks next, or spoke last."""
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[EpisodeTurn] = field(default_factory=list)
    messages: tuple[Message, ...] = ()
    drawn: Sampled = field(default_factory=lambda: Sampled(tokens=[], logprobs=[], ended=False))
    """The last turn."""
    end: End | None = None

    def add(self, ids: Sequence[int], logprobs: Sequence[float], *, own: bool) -> None:
        self.ids += ids
        self.mask += [own] * len(ids)
        self.logprobs += logprobs

    def hear(self, drawn: Sampled, text: str) -> None:
        """The policy's turn."""
        self.drawn = drawn
        self.messages = (*self.so_far.messages, Message(role="assistant", content=text))
        self.add(drawn.tokens, drawn.logprobs, own=True)

    def reward(self, reward: float) -> None:
        """For the last turn."""
        end = len(self.ids)
        self.turns.append(EpisodeTurn(start=end - len(self.drawn.tokens), end=end, reward=reward))

    def go_on(self, so_far: ChatOpening) -> None:
        """With what others replied."""
        added = so_far.ids[len(self.so_far.ids) + len(self.drawn.tokens) :]
        self.add(added, [0.0] * len(added), own=False)
        self.so_far = so_far

    def episode(self) -> Episode:
        """What it was."""
        assert self.end is not None
        return Episode(
            messages=self.messages,
            last_turn=len(self.so_far.messages),
            turns=tuple(self.turns),
            ended_turn=self.drawn.ended,
            end=self.end,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Player:
    """Plays conversations by a run's settings."""

    make: Maker
    settings: EnvironmentSettings
    caller: Caller
    tokenizer: PreTrainedTokenizerBase
    turn_tokens: int
    """Of one turn of the policy at most."""
    room: float
    """Tokens of a conversation at most."""
    seed: int
    told: set[str] = field(default_factory=set)
    """Kinds of failures that were warned of."""

    def play(
        self, prompts: Sequence[Prompt], keys: Sequence[int], draw: Draw, *, k: int, version: int
    ) -> Episodes:
        """k conversations of each prompt. What is drawn depends on the keys and what the environments say, not on what else is played.

        Raises:
            InputError: The environment raised, where that is to stop the run, or returned something that is not an answer; the chat template
                cannot write the conversations; or none of them got an answer.
        """
        groups = [
            [_Talk(prompt=prompt, key=key, number=number) for number in range(k)]
            for prompt, key in zip(prompts, keys, strict=True)
        ]
        everyone = list(chain.from_iterable(groups))
        try:
            self._begin(groups)
            drawn = draw([group[0].so_far.ids for group in groups], keys, k=k)
            going = self._round(everyone, list(chain.from_iterable(drawn)))
            turn = 1
            while going:
                later = [talk.key + ((turn * k + talk.number) << KEY_BITS) for talk in going]
                drawn = draw([talk.so_far.ids for talk in going], later, k=1)
                going = self._round(going, [sampled for [sampled] in drawn])
                turn += 1
        finally:
            self._close(everyone)
        self._check_answered(everyone)
        return _episodes(prompts, groups, version)

    def _begin(self, groups: Sequence[list[_Talk]]) -> None:
        """Make the environments, and open every conversation."""
        talks = list(chain.from_iterable(groups))
        results = iter(self.caller.all([partial(self._reset, talk) for talk in talks]))
        for group in groups:
            what = (
                f"environment {self.settings.name}: reset for the prompt {shown(group[0].prompt.to_json())}"
            )
            found = [self._checked(talk, next(results), opening_in, what) for talk in group]
            openings = [messages for messages in found if messages is not None]
            if not openings:
                raise InputError(
                    f"{what} failed or took more than {self.settings.seconds:g} s (environment.seconds)"
                )
            if any(messages != openings[0] for messages in openings):
                raise InputError(
                    f"{what} gave different messages to conversations of one prompt, which are compared with each other; "
                    "take what varies from prompt.columns or from a parameter `seed`"
                )
            opening = open_chat(self.tokenizer, openings[0])
            if len(opening.ids) + self.turn_tokens > self.room:
                raise InputError(
                    f"{what} gave messages of {len(opening.ids)} tokens, which with sampling.max_new_tokens = {self.turn_tokens} is more than "
                    f"the {self.room:g} that a conversation may have (environment.max_tokens, and what the models read); shorten them, or lower sampling.max_new_tokens"
                )
            for talk in group:
                talk.so_far, talk.prompt_ids = opening, opening.ids

    def _reset(self, talk: _Talk) -> Any:
        talk.environment = self.make()
        if not takes_seed(talk.environment):
            return talk.environment.reset(talk.prompt)
        reset: Callable[..., Any] = talk.environment.reset
        return reset(talk.prompt, seed=(self.seed << KEY_BITS) + talk.key % (1 << KEY_BITS))

    def _round(self, talks: Sequence[_Talk], drawn: Sequence[Sampled]) -> list[_Talk]:
        """The policy's turns, and what their environments answer; returns the conversations that go on."""
        texts = decode_completions(self.tokenizer, [sampled.tokens for sampled in drawn])
        for talk, sampled, text in zip(talks, drawn, texts, strict=True):
            talk.hear(sampled, text)
        asked = [talk for talk in talks if talk.environment and not talk.end]
        results = self.caller.all([partial(_environment(talk).step, talk.messages) for talk in asked])
        answers = {id(talk): result for talk, result in zip(asked, results, strict=True)}
        for talk in talks:
            if id(talk) in answers:
                what = (
                    f"environment {self.settings.name}: step after turn {len(talk.turns) + 1} of the prompt "
                    f"{shown(talk.prompt.to_json())}"
                )
                answer = self._checked(talk, answers[id(talk)], answer_in, what)
                if answer is not None:
                    self._answered(talk, answer)
                    continue
            talk.reward(self.settings.failure_reward)
        return [talk for talk in talks if not talk.end]

    def _answered(self, talk: _Talk, answer: EnvironmentAnswer) -> None:
        """Go on with what the environment said, or end."""
        talk.reward(answer.reward)
        talk.messages = (*talk.messages, *answer.messages)
        spoken = talk.messages[len(talk.so_far.messages)]
        drawn = talk.drawn
        if not drawn.ended:
            talk.end = "cut"
        elif answer.done:
            talk.end = "done"
        elif not ends_turn(self.tokenizer, drawn.tokens[-1]):
            talk.end = "other_stop"
        elif len(talk.turns) == self.settings.max_turns:
            talk.end = "max_turns"
        else:
            try:
                so_far = reply(self.tokenizer, talk.so_far, drawn.tokens, spoken, answer.messages)
            except Rewritten as reason:
                talk.end = "rewritten"
                self._warn("rewritten", str(reason))
                return
            if len(so_far.ids) + self.turn_tokens > self.room:
                talk.end = "no_room"
            else:
                talk.go_on(so_far)

    def _checked(self, talk: _Talk, result: Any, check: Callable[..., Checked], what: str) -> Checked | None:
        """What a call returned, checked; None if it failed, and the conversation has ended by that."""
        if isinstance(result, TimeoutError):
            talk.end = "timed_out"
            self._warn(
                "timed_out",
                f"{what} took more than {self.settings.seconds:g} s (environment.seconds); such conversations end there and are counted",
            )
            return None
        if isinstance(result, InputError) or not isinstance(result, BaseException):
            if isinstance(result, InputError):
                raise result
            return check(result, what=what)
        if self.settings.on_error == "stop" or not isinstance(result, Exception):
            raise InputError(
                f"{what} raised {told(result)}; correct it, or count such conversations with environment.on_error count"
            ) from result
        talk.end = "failed"
        self._warn("failed", f"{what} raised {told(result)}; such conversations end there and are counted")
        return None

    def _warn(self, kind: str, text: str) -> None:
        """Once a run."""
        if kind not in self.told:
            self.told.add(kind)
            log.warning("%s", text)

    def _close(self, talks: Sequence[_Talk]) -> None:
        closes: list[Call] = [
            close for talk in talks if callable(close := getattr(talk.environment, "close", None))
        ]
        for result in self.caller.all(closes) if closes else ():
            if isinstance(result, Exception):
                self._warn("close", f"environment {self.settings.name}: close raised {told(result)}")

    def _check_answered(self, talks: Sequence[_Talk]) -> None:
        """Raise `InputError` if nothing can be learned from any conversation."""
        if talks and all(talk.end in ("timed_out", "failed") for talk in talks):
            raise InputError(
                f"environment {self.settings.name}: all {len(talks)} conversations failed or took more than {self.settings.seconds:g} s "
                "(environment.seconds); see the warnings above"
            )
        tried = [talk for talk in talks if len(talk.turns) > 1 or talk.end in ("rewritten", "no_room")]
        if len(tried) > 1 and all(talk.end == "rewritten" and len(talk.turns) == 1 for talk in tried):
            raise InputError(
                f"environment {self.settings.name}: none of {len(tried)} conversations could go on after its first turn: the chat template "
                "writes earlier turns differently (see the warning above); set a chat template that keeps them"
            )


def _environment(talk: _Talk) -> Environment:
    assert talk.environment is not None
    return talk.environment


def _episodes(prompts: Sequence[Prompt], groups: Sequence[list[_Talk]], version: int) -> Episodes:
    episodes = [[talk.episode() for talk in group] for group in groups]
    return Episodes(
        prompts=tuple(prompts),
        groups=[
            Group(
                prompt=group[0].prompt_ids,
                completions=tuple(talk.ids for talk in group),
                masks=tuple(talk.mask for talk in group),
            )
            for group in groups
        ],
        texts=[[episode.messages[episode.last_turn].content for episode in row] for row in episodes],
        ended=[[episode.end == "done" for episode in row] for row in episodes],
        sampler_logprobs=[[talk.logprobs for talk in group] for group in groups],
        versions=[[[version] * len(talk.ids) for talk in group] for group in groups],
        episodes=episodes,
    )
