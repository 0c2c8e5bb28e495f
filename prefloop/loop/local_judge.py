"""A checkpoint on this machine as the model that judges. Needs torch; judges behind an address do not."""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prefloop.configs.common import Compute, Sampling
from prefloop.errors import InputError
from prefloop.feedback.judges.model import Reply
from prefloop.models.load import load_policy
from prefloop.models.weights import weights_sha256
from prefloop.records import Message, Prompt
from prefloop.rollout.sampler import check_prompts, sample
from prefloop.rollout.scoring import summed_logprobs
from prefloop.runtime import World
from prefloop.text import completions_group, decode_completion, encode_prompt, load_tokenizer, stop_token_ids
from prefloop.text.groups import Group

ALTERNATIVES = 20
"""First tokens whose log-probabilities are given, as many as the common servers give."""


class LocalChat:
    """A causal language model as a `ChatModel`, one call at a time; and as one that gives whole answers' probabilities, in packed batches."""

    def __init__(
        self, checkpoint: str, compute: Compute | None = None, *, temperature: float = 0.0, seed: int = 0
    ) -> None:
        self._compute = compute or Compute()
        if self._compute.shard != "none":
            raise InputError(
                f"compute.shard of a judge is {self._compute.shard}; leave it out: each process has all of it"
            )
        self._tokenizer = load_tokenizer(checkpoint, trust_remote_code=self._compute.trust_remote_code)
        self._policy = load_policy(checkpoint, self._compute)
        self._policy.requires_grad_(False)
        self._temperature, self._seed = temperature, seed
        self._lock = threading.Lock()
        self._identity: dict[str, Any] = {
            "checkpoint": checkpoint,
            "weights_sha256": weights_sha256(checkpoint),
        }
        if temperature:
            self._identity |= {"temperature": temperature, "seed": seed}

    @property
    def identity(self) -> Mapping[str, Any]:
        """The folder and the hash of its weights; temperature and seed where answers are drawn."""
        return self._identity

    def complete(self, messages: Sequence[Message], *, max_tokens: int) -> Reply:
        """Answer, with the log-probabilities of the first token. Raises `InputError` if the messages do not fit the model.

        At temperature 0 the likeliest token each time; else what is drawn depends on the seed and the messages. A model without a chat
        template reads the messages as one text that ends in `Answer:`.
        """
        ids = encode_prompt(self._tokenizer, self._prompt(messages))
        with self._lock, self._policy.active() as model:
            check_prompts(model, [ids], max_tokens)
            model.eval()
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1].float()
            logprobs, tokens = logits.log_softmax(-1).topk(min(ALTERNATIVES, logits.numel()))
            first = {
                str(self._tokenizer.decode([token])): logprob
                for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True)
            }
            drawn = (tokens[0].item(),)
            if max_tokens > 1 or self._temperature:
                sampling = Sampling(max_new_tokens=max_tokens, temperature=self._temperature)
                ((done,),) = sample(
                    model,
                    [ids],
                    k=1,
                    stop_ids=stop_token_ids(self._tokenizer),
                    sampling=sampling,
                    seed=self._seed,
                    row_keys=[_key(messages)],
                )
                drawn = tuple(done.tokens)
        return Reply(
            text=decode_completion(self._tokenizer, [int(token) for token in drawn]),
            first_token=first,
            prompt_tokens=len(ids),
            completion_tokens=len(drawn),
        )

    def probabilities(self, asked: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[list[float]]:
        """For each question, the probability that its answer begins with each of `answers`, and with no longer one of them.

        With and without a space before them, of any number of tokens each. A question is computed once for all its answers.
        """
        spelled = [*answers, *(f" {answer}" for answer in answers)]
        groups = [
            completions_group(self._tokenizer, self._prompt(messages), spelled, ended=False)
            for messages in asked
        ]
        with self._lock:
            check_prompts(self._policy.model, [group.prompt for group in groups], 1)
            logprobs = summed_logprobs(
                self._policy,
                groups,
                tokens=self._compute.micro_batch_tokens,
                world=World(rank=0, size=1, device=self._policy.device),
            )
        rows = logprobs.double().exp().view(len(groups), -1).tolist() if groups else []
        return [_alone(group, row, len(answers)) for group, row in zip(groups, rows, strict=True)]

    def _prompt(self, messages: Sequence[Message]) -> Prompt:
        if self._tokenizer.chat_template:
            return Prompt(content=tuple(messages))
        return Prompt(content="\n\n".join(message.content for message in messages) + "\n\nAnswer:")


def _key(messages: Sequence[Message]) -> int:
    """A number for what is asked, so that the draw does not depend on the order of questions."""
    text = json.dumps([[message.role, message.content] for message in messages])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _alone(group: Group, row: Sequence[float], answers: int) -> list[float]:
    """Each answer's probability, its spellings added up, without that of longer answers that begin with the same tokens."""
    by_ids = {tuple(ids): mass for ids, mass in zip(group.completions, row, strict=True)}

    def own(ids: tuple[int, ...]) -> float:
        longer = [other for other in by_ids if len(other) > len(ids) and other[: len(ids)] == ids]
        # Of longer answers that begin with each other the shorter one's mass holds the other's.
        outer = [a for a in longer if not any(b != a and a[: len(b)] == b for b in longer)]
        return max(0.0, by_ids[ids] - sum(by_ids[other] for other in outer))

    spellings = [tuple(ids) for ids in group.completions]
    return [
        sum(own(ids) for ids in dict.fromkeys((spellings[place], spellings[place + answers])))
        for place in range(answers)
    ]
