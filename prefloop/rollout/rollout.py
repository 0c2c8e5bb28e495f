"""A rollout: prompts, the completions a policy drew for them, and what it thought of every token when it drew them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any, Self, TypeVar

from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import Sampling
from prefloop.records import Completion, Prompt
from prefloop.rollout.sampler import Sampled
from prefloop.text import completions_group, reads_apart, with_trained_stops
from prefloop.text.groups import Group

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """P prompts with their completions. Every list is by prompt and then by completion, in the order of `prompts`."""

    prompts: tuple[Prompt, ...]
    groups: list[Group]
    """Token ids as they were drawn, never encoded again from the text. The masks keep the policy's own, which are all but an environment's."""
    texts: list[list[str]]
    """The completions as text: without the prompt and without the stop token."""
    ended: list[list[bool]]
    """Whether the policy stopped by itself."""
    sampler_logprobs: list[list[list[float]]]
    """Log-probability of each token at the sampling temperature, as the sampler's forward pass gave it; 0 of an environment's."""
    versions: list[list[list[int]]]
    """Which weights drew each token: the steps of learning they had behind them. An environment's tokens have their completion's."""

    def __len__(self) -> int:
        """Completions, over all prompts."""
        return sum(map(len, self.texts))

    def pairs(self) -> tuple[list[Prompt], list[str]]:
        """The prompt and the text of every completion, one after another: what a scorer is called with."""
        prompts = [
            prompt for prompt, texts in zip(self.prompts, self.texts, strict=True) for _ in range(len(texts))
        ]
        return prompts, [text for texts in self.texts for text in texts]

    def groups_for(self, reader: PreTrainedTokenizerBase, *, policy: PreTrainedTokenizerBase) -> list[Group]:
        """The completions in the tokens that another model reads: as they were drawn where those are the policy's (with the stop token that reward models are trained with), else their texts encoded again."""
        same_kind = reader.chat_template == policy.chat_template and reads_apart(reader) == reads_apart(
            policy
        )
        if same_kind and reader.get_vocab() == policy.get_vocab():
            return [
                with_trained_stops(reader, prompt, group, ended)
                for prompt, group, ended in zip(self.prompts, self.groups, self.ended, strict=True)
            ]
        return [
            completions_group(reader, prompt, texts, ended=ended, origin="drawn")
            for prompt, texts, ended in zip(self.prompts, self.texts, self.ended, strict=True)
        ]

    def by_prompt(self, values: Sequence[Value]) -> list[list[Value]]:
        """One value for every completion, in the order of `pairs`, as a list for every prompt."""
        if len(values) != len(self):
            raise ValueError(f"there are {len(self)} completions but {len(values)} values")
        rest = iter(values)
        return [list(islice(rest, len(texts))) for texts in self.texts]

    def early_rewards(self) -> Iterable[tuple[int, int, float]]:
        """Rewards that were given before a completion's end, as (completion, place of the token, reward); completions in the order of `pairs`."""
        return ()

    def take(self, places: Sequence[int]) -> Self:
        """The prompts at these places with their completions, in this order."""
        return self._each(lambda name: [getattr(self, name)[i] for i in places])

    def join(self, other: "Rollout") -> Self:
        """These prompts and then the other's."""
        return self._each(lambda name: [*getattr(self, name), *getattr(other, name)])

    def beside(self, other: "Rollout") -> Self:
        """The same prompts with these completions and, behind them, the other rollout's."""

        def of_both(name: str) -> list[Any]:
            pairs = zip(getattr(self, name), getattr(other, name), strict=True)
            match name:
                case "prompts":
                    return list(self.prompts)
                case "groups":
                    return [
                        Group(
                            prompt=a.prompt,
                            completions=(*a.completions, *b.completions),
                            masks=(*a.masks, *b.masks),
                        )
                        for a, b in pairs
                    ]
                case _:
                    return [[*a, *b] for a, b in pairs]

        return self._each(of_both)

    def _each(self, made: Callable[[str], list[Any]]) -> Self:
        """The rollout whose lists are made anew, each from its name."""
        lists = {field.name: made(field.name) for field in fields(self)}
        return replace(self, **{**lists, "prompts": tuple(lists["prompts"])})

    def completions(self, *, policy: str, sampling: Sampling, seed: int) -> Iterable[Completion]:
        """The completions as records for the store, with where they come from."""
        for i, prompt in enumerate(self.prompts):
            for j, text in enumerate(self.texts[i]):
                yield Completion(
                    prompt=prompt,
                    text=text,
                    policy=policy,
                    logprob=sum(self.sampler_logprobs[i][j]),
                    tokens=len(self.groups[i].completions[j]),
                    ended=self.ended[i][j],
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=sampling.top_k,
                    seed=seed,
                    index=j,
                )


def make_rollout(
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[Sequence[int]],
    samples: Sequence[Sequence[Sampled]],
    decode: Callable[[Sequence[int]], str],
    *,
    versions: int | list[list[list[int]]] = 0,
) -> Rollout:
    """Put together what weights of this version, or of these for each token, sampled. `decode` gives the text of a completion's ids and leaves the stop token out."""
    return Rollout(
        prompts=tuple(prompts),
        groups=[
            Group(
                prompt=ids,
                completions=tuple(one.tokens for one in drawn),
                masks=tuple([True] * len(one.tokens) for one in drawn),
            )
            for ids, drawn in zip(prompt_ids, samples, strict=True)
        ],
        texts=[[decode(one.tokens) for one in drawn] for _, drawn in zip(prompts, samples, strict=True)],
        ended=[[one.ended for one in drawn] for drawn in samples],
        sampler_logprobs=[[one.logprobs for one in drawn] for drawn in samples],
        versions=[[[versions] * len(one.tokens) for one in drawn] for drawn in samples]
        if isinstance(versions, int)
        else versions,
    )
