"""A checkpoint on this machine as the chat model of a judge. Needs torch; judges behind an address do not."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prefloop.configs.common import Compute, Sampling
from prefloop.feedback.judges.model import Reply
from prefloop.models.load import load_policy
from prefloop.models.weights import weights_sha256
from prefloop.records import Message, Prompt
from prefloop.rollout.sampler import check_prompts, sample
from prefloop.text import decode_completion, encode_prompt, load_tokenizer, stop_token_ids

ALTERNATIVES = 20
"""First tokens whose log-probabilities are given, as many as the common servers give."""


class LocalChat:
    """A causal language model as a `ChatModel`: the likeliest token each time, one call at a time."""

    def __init__(self, checkpoint: str, compute: Compute | None = None) -> None:
        compute = compute or Compute()
        self._tokenizer = load_tokenizer(checkpoint, trust_remote_code=compute.trust_remote_code)
        self._policy = load_policy(checkpoint, compute)
        self._lock = threading.Lock()
        self._identity = {"checkpoint": checkpoint, "weights_sha256": weights_sha256(checkpoint)}

    @property
    def identity(self) -> Mapping[str, Any]:
        """The folder and the hash of its weights."""
        return self._identity

    def complete(self, messages: Sequence[Message], *, max_tokens: int) -> Reply:
        """Answer greedily, with the log-probabilities of the first token. Raises `InputError` where the messages do not fit the model.

        A model without a chat template reads the messages as one text that ends in `Answer:`.
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
            if max_tokens > 1:
                sampling = Sampling(max_new_tokens=max_tokens, temperature=0.0)
                stops = stop_token_ids(self._tokenizer)
                ((done,),) = sample(
                    model, [ids], k=1, stop_ids=stops, sampling=sampling, seed=0, row_keys=[0]
                )
                drawn = tuple(done.tokens)
        return Reply(
            text=decode_completion(self._tokenizer, [int(token) for token in drawn]),
            first_token=first,
            prompt_tokens=len(ids),
            completion_tokens=len(drawn),
        )

    def _prompt(self, messages: Sequence[Message]) -> Prompt:
        if self._tokenizer.chat_template:
            return Prompt(content=tuple(messages))
        return Prompt(content="\n\n".join(message.content for message in messages) + "\n\nAnswer:")
