"""Completions that a user's function draws. It gets the model as it is at this step; what it returns is checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch

from prefloop.configs.common import Sampling
from prefloop.configs.functions import call, find_function, numbers_in, shown
from prefloop.errors import InputError
from prefloop.rollout.families import text_config
from prefloop.rollout.sampler import Sampled, sampling_mode
from prefloop.rollout.steered import Drawer
from prefloop.runtime import World


class FunctionSampler:
    """Samples with a function that takes the arguments of `prefloop.rollout.sample`."""

    def __init__(self, name: str, world: World) -> None:
        """Raises `InputError` if there is no such function."""
        self._function = world.together(lambda: find_function(name, what="sampler"))
        self._what, self._world = f"sampler {name}", world

    def sample(
        self,
        policy: Drawer,
        prompts: Sequence[Sequence[int]],
        *,
        k: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        seed: int,
        row_keys: Sequence[int],
        version: int,
    ) -> list[list[Sampled]]:
        """See `TokenSampler`. Raises `InputError` that says what the function raised, or what is wrong with what it returned."""

        def draw() -> list[list[Sampled]]:
            given = {"k": k, "stop_ids": stop_ids, "sampling": sampling, "seed": seed, "row_keys": row_keys}
            drawn = call(self._function, model, [list(ids) for ids in prompts], **given, what=self._what)
            checks = Checks(
                what=self._what,
                stop_ids=frozenset(stop_ids),
                limit=sampling.max_new_tokens,
                vocabulary=text_config(model).vocab_size,
            )
            return checks.all_of(drawn, len(prompts), k)

        with policy.active() as model, sampling_mode(model), torch.inference_mode():
            return self._world.together(draw)

    def check_room(self, longest: int) -> None:
        """The model's own positions are checked elsewhere."""

    def metrics(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """Of what a function returned as completions. All raise `InputError` that names the completion and what is wrong with it."""

    what: str
    """The function, for messages."""
    stop_ids: frozenset[int]
    limit: int
    """Of a completion's tokens."""
    vocabulary: int
    """The number of token ids."""

    def all_of(self, drawn: object, prompts: int, k: int) -> list[list[Sampled]]:
        """k completions of each prompt."""
        rows = self._listed(drawn, prompts, "a list with the completions of each of {} prompts", "")
        return [
            [
                self.completion(one, f"completion {number} of prompt {row}")
                for number, one in enumerate(
                    self._listed(its, k, "a list of {} completions", f" for prompt {row}")
                )
            ]
            for row, its in enumerate(rows)
        ]

    def completion(self, given: object, place: str) -> Sampled:
        """One completion: its token ids and their log-probabilities, as a pair or as `Sampled`."""
        pair = (given.tokens, given.logprobs) if isinstance(given, Sampled) else given
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise InputError(
                f"{self.what} returned {shown(given)} as {place}; it must be a pair: token ids, and the log-probability of each"
            )
        tokens = self._tokens(pair[0], place)
        logprobs = numbers_in(
            pair[1],
            len(tokens),
            what=f"{self.what}, for the log-probabilities of {place},",
            unit="token",
            where=lambda index: f"token {index}",
        )
        if max(logprobs) > 1e-4:  # rounding aside
            raise InputError(
                f"{self.what} returned a log-probability of {max(logprobs):g} in {place}; none can be above 0"
            )
        return Sampled(tokens=tokens, logprobs=logprobs, ended=tokens[-1] in self.stop_ids)

    def _tokens(self, given: Any, place: str) -> list[int]:
        ids = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(ids, list | tuple) or not ids:
            raise InputError(
                f"{self.what} returned {shown(ids)} as the tokens of {place}; it must be a list of one token id or more"
            )
        for index, token in enumerate(ids):
            known = isinstance(token, Integral) and not isinstance(token, bool)
            if not known or not 0 <= int(token) < self.vocabulary:
                raise InputError(
                    f"{self.what} returned {shown(token)} as token {index} of {place}; the model's token ids are 0 to {self.vocabulary - 1}"
                )
            if token in self.stop_ids and index < len(ids) - 1:
                raise InputError(
                    f"{self.what} returned more tokens after the stop token {token} at {index} of {place}; a completion ends with it"
                )
        if len(ids) > self.limit:
            raise InputError(
                f"{self.what} returned {len(ids)} tokens as {place}, but sampling.max_new_tokens is {self.limit}"
            )
        return [int(token) for token in ids]

    def _listed(self, given: object, count: int, wanted: str, place: str) -> list[Any]:
        if not isinstance(given, list | tuple) or len(given) != count:
            found = f"a list of {len(given)}" if isinstance(given, list | tuple) else shown(given)
            raise InputError(f"{self.what} returned {found}{place}; it must return {wanted.format(count)}")
        return list(given)
