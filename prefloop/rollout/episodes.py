"""Conversations of a policy with an environment, as a rollout.

A conversation is one completion of its prompt: from the policy's first token to its last, with everything between as tokens that the mask
leaves out. It ends with the policy's last turn; what the environment says after that is kept as text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from prefloop.records import Message, Prompt
from prefloop.rollout.rollout import Rollout
from prefloop.text.groups import Group

End = Literal["done", "max_turns", "cut", "no_room", "other_stop", "rewritten", "timed_out", "failed"]
"""Why a conversation ended: the environment said so; it had `max_turns`; the policy's turn was cut at `max_new_tokens`; there was no room for
another turn; the turn ended with another stop token than the template's; the template writes earlier turns otherwise; the environment took
too long; it raised."""
ENDS: tuple[End, ...] = get_args(End)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeTurn:
    """A turn of the policy."""

    start: int
    """Place of its first token in the completion."""
    end: int
    """Place behind its last token."""
    reward: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """What a conversation was, besides its tokens."""

    messages: tuple[Message, ...]
    """The whole conversation, with what the environment said last."""
    last_turn: int
    """Place of the policy's last turn among the messages."""
    turns: tuple[EpisodeTurn, ...]
    ended_turn: bool
    """Whether the policy ended its last turn by itself."""
    end: End

    @property
    def reward(self) -> float:
        """Of all turns."""
        return sum(turn.reward for turn in self.turns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Episodes(Rollout):
    """A rollout whose completions are conversations. `texts` are the policy's last turns; `ended` says whether the environment ended the conversation."""

    episodes: list[list[Episode]]

    def early_rewards(self) -> Iterable[tuple[int, int, float]]:
        """The rewards of all turns but the last, at the last token of each turn."""
        for row, episode in enumerate(self.flat()):
            for turn in episode.turns[:-1]:
                yield row, turn.end - 1, turn.reward

    def flat(self) -> list[Episode]:
        """All conversations, in the order of `pairs`."""
        return [episode for of_prompt in self.episodes for episode in of_prompt]

    def pairs(self) -> tuple[list[Prompt], list[str]]:
        """The conversation before the policy's last turn, and that turn."""
        turns = self.last_turns()
        return list(turns.prompts), [text for [text] in turns.texts]

    def last_turns(self) -> Rollout:
        """Every conversation as a prompt of its own, which the policy's last turn answers: how a scorer reads it."""
        rows = list(self._rows())
        return Rollout(
            prompts=tuple(
                Prompt(content=episode.messages[: episode.last_turn], columns=prompt.columns)
                for prompt, _, episode, *_ in rows
            ),
            groups=[
                Group(
                    prompt=[*start, *ids[: episode.turns[-1].start]],
                    completions=(ids[episode.turns[-1].start :],),
                    masks=([True] * (len(ids) - episode.turns[-1].start),),
                )
                for _, start, episode, ids, *_ in rows
            ],
            texts=[[episode.messages[episode.last_turn].content] for _, _, episode, *_ in rows],
            ended=[[episode.ended_turn] for _, _, episode, *_ in rows],
            sampler_logprobs=[
                [logprobs[episode.turns[-1].start :]] for _, _, episode, _, logprobs, _ in rows
            ],
            versions=[[versions[episode.turns[-1].start :]] for _, _, episode, _, _, versions in rows],
        )

    def _rows(self) -> Iterator[tuple[Prompt, Sequence[int], Episode, Sequence[int], list[float], list[int]]]:
        for i, prompt in enumerate(self.prompts):
            group = self.groups[i]
            for episode, ids, logprobs, versions in zip(
                self.episodes[i], group.completions, self.sampler_logprobs[i], self.versions[i], strict=True
            ):
                yield prompt, group.prompt, episode, ids, logprobs, versions
