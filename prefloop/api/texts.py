"""A policy and a reward model that read and write text: nothing of tokens, batches or devices."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, overload

from prefloop.configs.common import Compute, Sampling
from prefloop.errors import InputError
from prefloop.models.load import load_policy as _load_policy
from prefloop.records import Message, Prompt
from prefloop.rollout import sample
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.rollout.scoring import token_logprobs
from prefloop.runtime import start_world
from prefloop.text import completions_group, decode_completion, encode_prompt, load_tokenizer, stop_token_ids

PromptLike = str | Prompt | Sequence[Mapping[str, Any]]
"""A text, a chat as a list of `{"role": ..., "content": ...}`, or a record."""


class TextPolicy:
    """A policy that samples completions and computes log-probabilities of texts."""

    def __init__(self, name: str | Path, *, compute: Compute | None = None) -> None:
        """Load a causal language model by hub name or folder. Raises `InputError` if there is none."""
        compute = compute or Compute()
        self.model_folder = Path(name)
        """What stages take this policy by, as `model=`."""
        self.tokenizer = load_tokenizer(str(name), trust_remote_code=compute.trust_remote_code)
        self.policy = _load_policy(str(name), compute)
        """The policy as the stages hold it; `policy.model` is the model of transformers."""
        self._compute = compute
        self._drawn = 0

    @overload
    def generate(  # pyright: ignore[reportOverlappingOverload]  a string is one prompt, not a sequence of them
        self, prompts: str, *, k: None = None, seed: int | None = None, **sampling: Any
    ) -> str: ...
    @overload
    def generate(  # pyright: ignore[reportOverlappingOverload]
        self, prompts: str, *, k: int, seed: int | None = None, **sampling: Any
    ) -> list[str]: ...
    @overload
    def generate(
        self, prompts: Sequence[PromptLike], *, k: None = None, seed: int | None = None, **sampling: Any
    ) -> list[str]: ...
    @overload
    def generate(
        self, prompts: Sequence[PromptLike], *, k: int, seed: int | None = None, **sampling: Any
    ) -> list[list[str]]: ...
    def generate(
        self, prompts: Any, *, k: int | None = None, seed: int | None = None, **sampling: Any
    ) -> Any:
        """Sample completions of one prompt or of a list of prompts; with `k`, k of each.

        Args:
            prompts: Texts or chats. With a chat template, a text is the user's message; without one, the model continues it.
            k: Completions per prompt; the result then has a list for each prompt.
            seed: The same seed gives the same samples; without one every call gives new ones.
            sampling: Settings of `Sampling`: max_new_tokens, temperature, top_p, top_k, batch_size.

        Raises:
            InputError: An unknown setting, or a prompt with no room for its completion.
        """
        try:
            settings = replace(Sampling(), **sampling)
        except TypeError as error:
            raise InputError(f"generate: {error}; it takes the settings of sampling") from None
        single = isinstance(prompts, str | Prompt) or _is_chat(prompts)
        asked = [
            self._prompt(one_prompt)
            for one_prompt in cast(list[PromptLike], [prompts] if single else prompts)
        ]
        if seed is None:
            seed, self._drawn = 1_000_003 + self._drawn, self._drawn + 1
        with self.policy.active() as model:
            drawn = sample(
                model,
                [encode_prompt(self.tokenizer, prompt) for prompt in asked],
                k=k or 1,
                stop_ids=stop_token_ids(self.tokenizer),
                sampling=settings,
                seed=seed,
                row_keys=range(len(asked)),
            )
        texts = [[decode_completion(self.tokenizer, one.tokens) for one in of_prompt] for of_prompt in drawn]
        answers = texts if k else [of_prompt[0] for of_prompt in texts]
        return answers[0] if single else answers

    def logprobs(self, prompts: Sequence[PromptLike], completions: Sequence[str]) -> list[list[float]]:
        """Log-probability of every token of each completion, stop token included. Item i of `completions` answers item i of `prompts`."""
        _same_length(prompts, completions)
        groups = [
            completions_group(self.tokenizer, self._prompt(prompt), [completion])
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        world = start_world(self._compute.device, wait_minutes=self._compute.wait_minutes)
        flat = token_logprobs(self.policy, groups, tokens=self._compute.micro_batch_tokens, world=world)
        return [row.tolist() for row in flat.split([len(group.completions[0]) for group in groups])]

    def _prompt(self, given: PromptLike) -> Prompt:
        return prompt_of(given, chat=bool(self.tokenizer.chat_template))

    def __repr__(self) -> str:
        return f"TextPolicy({str(self.model_folder)!r})"


class TextScorer:
    """Scores completions: a reward model, an ensemble, or anything else that a `reward_model` setting can name."""

    def __init__(self, name: str | Path, *, compute: Compute | None = None) -> None:
        """Load by what `reward_model` takes: folder, hub name, `module:function`, POLICY@REFERENCE, several with commas."""
        compute = compute or Compute()
        self.model_folder = Path(name)
        """What stages take this model by, as `reward_model=` or `model=`."""
        self._world = start_world(compute.device, wait_minutes=compute.wait_minutes)
        self._scorer = EnsembleScorer.load(str(name), compute, self._world)

    def score(self, prompts: Sequence[PromptLike], completions: Sequence[str]) -> list[float]:
        """A score for each completion; higher is better. Item i of `completions` answers item i of `prompts`. Scores are on the model's own scale."""
        _same_length(prompts, completions)
        chat = bool(self._scorer.tokenizer.chat_template)
        asked = [prompt_of(prompt, chat=chat) for prompt in prompts]
        return [float(value) for value in self._scorer(asked, completions)]

    def __call__(self, prompts: Sequence[PromptLike], completions: Sequence[str]) -> list[float]:
        """The same, so that it can be given as a reward function."""
        return self.score(prompts, completions)

    def __repr__(self) -> str:
        return f"TextScorer({str(self.model_folder)!r})"


def prompt_of(given: PromptLike, *, chat: bool) -> Prompt:
    """A prompt as a record. With `chat`, a text becomes a user's message."""
    if isinstance(given, Prompt):
        return given
    if isinstance(given, str):
        return Prompt(content=(Message(role="user", content=given),) if chat else given)
    messages = cast(Sequence[Any], given)
    try:
        return Prompt(content=tuple(Message.from_json(message) for message in messages))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"a prompt is {given!r}; give a text, or a list of messages with role and content ({error})"
        ) from None


def _is_chat(prompts: Any) -> bool:
    return (
        isinstance(prompts, list | tuple)
        and bool(prompts)
        and all(isinstance(prompt, Mapping) for prompt in prompts)
    )


def _same_length(prompts: Sequence[Any], completions: Sequence[Any]) -> None:
    if isinstance(prompts, str) or isinstance(completions, str):
        raise InputError("give lists of prompts and completions, also of one")
    if len(prompts) != len(completions):
        raise InputError(
            f"there are {len(prompts)} prompts and {len(completions)} completions; give one of each for every pair"
        )


def load_policy(name: str | Path, *, compute: Compute | None = None) -> TextPolicy:
    """Load a policy by hub name or folder, to read and write text."""
    return TextPolicy(name, compute=compute)


def load_reward_model(name: str | Path, *, compute: Compute | None = None) -> TextScorer:
    """Load a scorer of texts; `name` is anything that a `reward_model` setting takes."""
    return TextScorer(name, compute=compute)
