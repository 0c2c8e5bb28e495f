"""Conversations with a scripted policy: whose tokens are whose, which turn is paid, and every way in which a conversation ends."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from prefloop.configs.environments import EnvironmentSettings
from prefloop.environments.calls import Caller
from prefloop.environments.environment import give_environment, open_environment
from prefloop.errors import InputError
from prefloop.loop.tensors import mask_of, paid
from prefloop.records import Conversation, Message, Prompt
from prefloop.rollout.episodes import Episodes
from prefloop.rollout.playing import KEY_BITS, Player
from prefloop.rollout.sampler import Sampled
from prefloop.text import demonstration_group, encode_completion
from tests.text.kinds import build, token_id

TOKENIZER = build("ours")
CALLER = Caller(parallel=4, seconds=0.2)
PROMPTS = [Prompt(content="cat", columns={"left": 3}), Prompt(content="dog", columns={"left": 1})]


class Countdown:
    """Answers until a number is down to zero; turn t is worth t."""

    def reset(self, prompt: Prompt) -> list[Message]:
        self.left, self.turn = prompt.columns["left"], 0
        return [Message(role="user", content=str(prompt.content))]

    def step(self, messages: Sequence[Message]) -> tuple[list[dict[str, str]], float, bool]:
        self.left -= 1
        self.turn += 1
        return [{"role": "user", "content": f"{self.left} left"}], float(self.turn), self.left == 0


class CountdownAsync(Countdown):
    """The same as coroutines."""

    async def reset(self, prompt: Prompt) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        await asyncio.sleep(0)
        return Countdown.reset(self, prompt)

    async def step(self, messages: Sequence[Message]) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Countdown.step(self, messages)


class Script:
    """Says a word at every turn, another one each time; remembers what it was asked."""

    def __init__(self, *, stop: int | None = None, cut: bool = False) -> None:
        self.asked: list[tuple[list[list[int]], int, list[int]]] = []
        self.stop, self.cut = stop, cut

    def __call__(
        self, ids: Sequence[Sequence[int]], keys: Sequence[int], /, *, k: int
    ) -> list[list[Sampled]]:
        self.asked.append(([list(row) for row in ids], k, list(keys)))
        return [[self.say(key + j) for j in range(k)] for key in keys]

    def say(self, number: int) -> Sampled:
        tokens = encode_completion(TOKENIZER, PROMPTS[0], f"w{number % 97}")
        if self.stop is not None:
            tokens[-1] = self.stop
        if self.cut:
            del tokens[-1]
        return Sampled(tokens=tokens, logprobs=[-0.5 - i for i in range(len(tokens))], ended=not self.cut)


def play(
    environment: Any = Countdown,
    *,
    draw: Script | None = None,
    k: int = 2,
    room: float = 1e9,
    **settings: Any,
) -> Episodes:
    name = give_environment(environment)
    player = Player(
        make=open_environment(name),
        settings=EnvironmentSettings(name=name, **settings),
        caller=CALLER,
        tokenizer=TOKENIZER,
        turn_tokens=8,
        room=room,
        seed=5,
    )
    return player.play(PROMPTS, [10, 11], draw or Script(), k=k, version=7)


@pytest.mark.parametrize("environment", [Countdown, CountdownAsync, Countdown(), lambda: Countdown()])
def test_the_row_is_what_training_on_the_conversation_has(environment: Any) -> None:  # D2
    episodes = play(environment)
    for i, group in enumerate(episodes.groups):
        for episode, ids, mask in zip(episodes.episodes[i], group.completions, group.masks, strict=True):
            whole = demonstration_group(
                TOKENIZER, Conversation(messages=episode.messages[: episode.last_turn + 1])
            )
            assert [*group.prompt, *ids] == [*whole.prompt, *whole.completions[0]]
            assert list(mask) == list(whole.masks[0])
            assert episode.messages[-1].content == "0 left"  # kept as text
    assert [len(row[0].turns) for row in episodes.episodes] == [3, 1]
    assert episodes.ended == [[True, True], [True, True]]
    assert episodes.versions == [[[7] * len(ids) for ids in group.completions] for group in episodes.groups]


def test_logprobs_are_the_policys_and_zero_elsewhere() -> None:
    episodes = play()
    for group, rows in zip(episodes.groups, episodes.sampler_logprobs, strict=True):
        for mask, row in zip(group.masks, rows, strict=True):
            assert [value < 0 for value in row] == list(mask)


def test_each_turn_is_paid_at_its_last_token() -> None:
    episodes = play()
    mask = mask_of(episodes.groups, torch.device("cpu"))
    scores = torch.tensor([episode.reward for episode in episodes.flat()])
    assert scores.tolist() == [6, 6, 1, 1]
    rewards = paid(episodes, scores + 0.5, torch.zeros(mask.shape), mask, kl_coef=0.0)
    assert rewards.sum(dim=1).tolist() == [6.5, 6.5, 1.5, 1.5]
    stop = token_id(TOKENIZER, "<|eos|>")
    ids = episodes.groups[0].completions[0]
    ends = [at for at, token in enumerate(ids) if token == stop]
    assert {at: value for at, value in enumerate(rewards[0].tolist()) if value} == dict(
        zip(ends, [1.0, 2.0, 3.5], strict=True)
    )
    assert not rewards[~mask].any()


def test_first_turns_are_drawn_as_completions_are_and_later_ones_by_keys_of_their_own() -> None:
    script = Script()
    play(draw=script)
    (_, k, keys), (contexts, once, later), (_, _, last) = script.asked
    assert (k, keys, once) == (2, [10, 11], 1)
    assert later == [10 + (2 << KEY_BITS), 10 + (3 << KEY_BITS)]  # only the first prompt's go on
    assert last == [10 + (4 << KEY_BITS), 10 + (5 << KEY_BITS)]
    assert len(contexts) == 2


class Silent(Countdown):
    """Never ends."""

    def step(self, messages: Sequence[Message]) -> Any:
        return [{"role": "user", "content": "hm"}], 0.0, False


def ends(*args: Any, **settings: Any) -> list[str]:
    return [episode.end for episode in play(*args, **settings).flat()]


def test_every_way_to_end() -> None:
    assert ends(Silent, max_turns=2) == ["max_turns"] * 4
    assert ends(Silent, draw=Script(cut=True)) == ["cut"] * 4
    assert ends(Silent, draw=Script(stop=token_id(TOKENIZER, "<|bos|>"))) == ["other_stop"] * 4
    assert ends(Silent, room=40) == ["no_room"] * 4
    assert ends(Countdown) == ["done"] * 4


def test_no_conversation_is_longer_than_its_room() -> None:
    episodes = play(Silent, room=40)
    lengths = [len(group.prompt) + len(ids) for group in episodes.groups for ids in group.completions]
    assert max(lengths) <= 40 < max(lengths) + 8 + 8
    assert all(mask[-1] for group in episodes.groups for mask in group.masks)


class Slow(Countdown):
    """One kind of prompt takes longer than there is time; `how` it does."""

    how: Callable[[], Any] = staticmethod(lambda: time.sleep(0.5))

    def step(self, messages: Sequence[Message]) -> Any:
        found = self.how() if messages[0].content == "dog" else None
        return found or Countdown.step(self, messages)


async def wait() -> None:
    await asyncio.sleep(5)


def fail() -> None:
    raise ValueError("no such tool")


@pytest.mark.parametrize("how", [lambda: time.sleep(0.5), wait, lambda: threading.Event().wait(0.5)])
def test_what_takes_too_long_is_counted(
    how: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Slow, "how", staticmethod(how))
    episodes = play(Slow, failure_reward=-1.0)
    assert [episode.end for episode in episodes.flat()] == ["done", "done", "timed_out", "timed_out"]
    assert [episode.reward for episode in episodes.flat()] == [6, 6, -1, -1]
    assert episodes.ended == [[True, True], [False, False]]
    assert len(caplog.records) == 1
    assert "step after turn 1 of the prompt 'dog' took more than 60 s" in caplog.text


def test_an_error_stops_the_run_or_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "how", staticmethod(fail))
    with pytest.raises(
        InputError,
        match=r"step after turn 1 of the prompt 'dog' raised ValueError: no such tool \(.*test_playing.py:\d+\); correct it, or .*on_error count",
    ) as raised:
        play(Slow)
    assert len(str(raised.value).splitlines()) == 1
    assert ends(Slow, on_error="count") == ["done", "done", "failed", "failed"]


def test_an_environment_that_never_answers_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Countdown):
        def step(self, messages: Sequence[Message]) -> Any:
            raise OSError("gone")

    with pytest.raises(InputError, match="all 4 conversations failed"):
        play(Broken, on_error="count")


class Returns(Countdown):
    """Returns something."""

    opening: Any = None
    answer: Any = ([], 1.0, True)

    def reset(self, prompt: Prompt) -> Any:
        return self.opening or Countdown.reset(self, prompt)

    def step(self, messages: Sequence[Message]) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("answer", None, r"returned None; it must return \(messages, reward, done\)"),
        ("answer", ("hi", 1.0, True), "returned 'hi' as messages; it must be a list"),
        ("answer", ([], "1", True), "returned '1' of type str for the reward; every value must be a finite"),
        ("answer", ([], float("nan"), True), "returned nan for the reward"),
        ("answer", ([], 1.0, 1), "returned 1 as done; it must be True or False"),
        ("answer", ([], 1.0, False), "no message and done False"),
        ("answer", ([{"role": "assistant", "content": "x"}], 1.0, False), "which is the policy"),
        ("answer", ([{"role": "user"}], 1.0, False), "as message 1; it must have a role"),
        ("opening", [{"role": "assistant", "content": "x"}], "a message of the assistant last"),
        (
            "opening",
            [{"role": "user", "content": "x" * 99}],
            r"tokens, which with sampling.max_new_tokens = 8 is more than the 60",
        ),
    ],
)
def test_what_is_no_answer_is_named(
    name: str, value: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Returns, name, value)
    with pytest.raises(InputError, match=reason):
        play(Returns, room=60)


def test_conversations_of_a_prompt_begin_alike_and_share_their_seed() -> None:
    seeds: list[int] = []

    class Seeded(Countdown):
        def reset(self, prompt: Prompt, seed: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            seeds.append(seed)
            return Countdown.reset(self, prompt)

    play(Seeded)
    assert sorted(seeds) == [(5 << KEY_BITS) + key for key in (10, 10, 11, 11)]
    counter = iter(range(99))

    class Random(Countdown):
        def reset(self, prompt: Prompt) -> Any:
            Countdown.reset(self, prompt)
            return [{"role": "user", "content": f"{next(counter)}"}]

    with pytest.raises(InputError, match="different messages to conversations of one prompt"):
        play(Random)
    assert len(play(Random, k=1)) == 2


def test_environments_are_closed_whatever_happens() -> None:
    closed: list[str] = []

    class Closing(Returns):
        answer = None

        async def close(self) -> None:
            closed.append("closed")

    with pytest.raises(InputError):
        play(Closing)
    assert len(closed) == 4


def test_a_scorer_reads_the_last_turn_after_the_conversation() -> None:
    episodes = play()
    turns = episodes.last_turns()
    assert [len(prompt.content) for prompt in turns.prompts] == [5, 5, 1, 1]
    for group, [text] in zip(turns.groups, turns.texts, strict=True):
        assert list(group.completions[0]) == encode_completion(TOKENIZER, PROMPTS[0], text)
    whole = [*episodes.groups[0].prompt, *episodes.groups[0].completions[0]]
    assert [*turns.groups[0].prompt, *turns.groups[0].completions[0]] == whole
    assert episodes.pairs() == (list(turns.prompts), [text for [text] in turns.texts])


def test_conversations_go_with_their_prompts() -> None:
    episodes = play()
    back = episodes.take([1, 0]).join(episodes.take([1]))
    assert isinstance(back, Episodes)
    assert [len(row[0].turns) for row in back.episodes] == [1, 3, 1]
    assert episodes.take([]).join(episodes).episodes == episodes.episodes
