"""A checkpoint on this machine as a judge: its numbers are those of the model's own forward pass."""

from pathlib import Path

import pytest
import torch

from prefloop.configs.common import Compute
from prefloop.errors import InputError
from prefloop.evaluation.local_judge import LocalChat
from prefloop.models.load import load_policy
from prefloop.records import Message, Prompt
from prefloop.text import encode_prompt, load_tokenizer
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
