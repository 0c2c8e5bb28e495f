"""A checkpoint on this machine as a judge: its numbers are those of the model's own forward pass."""

from pathlib import Path

import pytest
import torch

from prefloop.configs.common import Compute
from prefloop.errors import InputError
from prefloop.loop.local_judge import LocalChat, _alone
from prefloop.models.load import load_policy
from prefloop.records import Message, Prompt
from prefloop.text import encode_prompt, load_tokenizer
from prefloop.text.groups import Group
from tests.tiny_project import make_model

CPU = Compute(device="cpu")
ASK = (Message(role="user", content="1 or 2?"),)


@pytest.mark.parametrize("chat", [True, False])
def test_the_first_tokens_probabilities_are_the_models(tmp_path: Path, chat: bool):
    folder = make_model(tmp_path / "m", chat=chat)
    judge = LocalChat(str(folder), CPU)
    reply = judge.complete(ASK, max_tokens=1)
    tokenizer = load_tokenizer(folder)
    prompt = Prompt(content=ASK) if chat else Prompt(content="1 or 2?\n\nAnswer:")
    ids = encode_prompt(tokenizer, prompt)
    with torch.no_grad():
        logits = load_policy(str(folder), CPU).model(torch.tensor([ids])).logits[0, -1].double()
    expected = logits.log_softmax(-1)
    assert reply.prompt_tokens == len(ids)
    assert reply.completion_tokens == 1
    assert max(reply.first_token.values()) == pytest.approx(expected.max().item(), abs=1e-4)
    assert judge.complete(ASK, max_tokens=4) == judge.complete(ASK, max_tokens=4)  # greedy
    assert set(judge.identity) == {"checkpoint", "weights_sha256"}


def test_a_question_that_does_not_fit(tmp_path: Path):
    judge = LocalChat(str(make_model(tmp_path / "m")), CPU)
    with pytest.raises(InputError, match="reads at most"):
        judge.complete((Message(role="user", content="word " * 4000),), max_tokens=1)


@pytest.mark.parametrize("chat", [True, False])
def test_whole_answers_probabilities_by_brute_force(tmp_path: Path, chat: bool):
    """Every answer token by token through the model alone, in float64; `10` has two tokens here, so `1` is without it."""
    folder = make_model(tmp_path / "m", chat=chat)
    judge = LocalChat(str(folder), CPU)
    asked = [ASK, (Message(role="user", content="Which of them?"),)]
    answers = [str(score) for score in range(1, 11)]
    found = judge.probabilities(asked, answers)
    tokenizer, model = load_tokenizer(folder), load_policy(str(folder), CPU).model.double()

    def begins(ids: list[int], text: str) -> float:
        likely = 1.0
        for token in tokenizer.encode(text, add_special_tokens=False):
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            likely *= logits.softmax(-1)[token].item()
            ids = [*ids, token]
        return likely

    assert len(tokenizer.encode("10", add_special_tokens=False)) == 2
    for messages, row in zip(asked, found, strict=True):
        text = f"{messages[0].content}\n\nAnswer:"
        ids = encode_prompt(tokenizer, Prompt(content=messages) if chat else Prompt(content=text))
        expected = [begins(ids, answer) for answer in answers]
        expected[0] -= expected[-1]
        with_space = [begins(ids, f" {answer}") for answer in answers]
        with_space[0] -= with_space[-1]
        expected = [a + b for a, b in zip(expected, with_space, strict=True)]
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_answers_that_begin_with_each_other_are_counted_once():
    def group(*completions: tuple[int, ...]) -> Group:
        return Group(
            prompt=[0], completions=completions, masks=tuple([True] * len(each) for each in completions)
        )

    # 1 | 1 0 | 1 0 0: the second holds the third, the first holds both.
    assert _alone(group((1,), (1, 0), (1, 0, 0), (1,), (1, 0), (1, 0, 0)), [0.6, 0.3, 0.1] * 2, 3) == (
        pytest.approx([0.3, 0.2, 0.1])
    )
    # Another spelling of the same answer is added, the same one is not.
    assert _alone(group((1,), (2,), (5,), (2,)), [0.5, 0.2, 0.1, 0.2], 2) == pytest.approx([0.6, 0.2])


def test_drawn_answers_depend_on_what_is_asked_and_the_seed(tmp_path: Path):
    folder = str(make_model(tmp_path / "m"))
    first = LocalChat(folder, CPU, temperature=1.0)
    again = LocalChat(folder, CPU, temperature=1.0)
    other = (Message(role="user", content="2 or 1?"),)
    text = first.complete(ASK, max_tokens=8).text
    assert again.complete(other, max_tokens=8).text != text
    assert again.complete(ASK, max_tokens=8).text == text
    assert LocalChat(folder, CPU, temperature=1.0, seed=1).complete(ASK, max_tokens=8).text != text
    assert first.identity != LocalChat(folder, CPU).identity
