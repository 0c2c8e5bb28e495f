"""Scorers made of models, and several scorers as one.

Whatever `--reward_model` names (see `configs/scorers.py`) is a part here; an `EnsembleScorer` has one part or more. What is to be scored is
either drawn by a policy (a `Rollout`, whose tokens are read as they were drawn where the scorer has the same ones) or text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import Compute
from prefloop.configs.scorers import Combining, Named, check_combining, scorers_named
from prefloop.errors import InputError
from prefloop.losses import implicit_reward
from prefloop.losses.reward_model import ENSEMBLES
from prefloop.models.load import load_policy, load_reward_model, reward_moments, stored_reward_moments
from prefloop.models.roles import BASE, Policy, RewardModel, vocabulary_size
from prefloop.records import Prompt
from prefloop.rollout.rollout import Rollout
from prefloop.rollout.scorers import Scorer, load_function
from prefloop.rollout.scoring import score_groups, summed_logprobs
from prefloop.runtime import Metrics, World
from prefloop.text import check_same_tokens, check_vocabulary, completions_group, load_tokenizer
from prefloop.text.encode import steps_group
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Completions that a policy with this tokenizer has drawn."""

    rollout: Rollout
    tokenizer: PreTrainedTokenizerBase

    @property
    def budgets(self) -> None:
        """What was drawn is read whole."""

    def groups(self, tokenizer: PreTrainedTokenizerBase) -> list[Group]:
        """In the tokens that a scorer reads."""
        return self.rollout.groups_for(tokenizer, policy=self.tokenizer)

    def written(self) -> list[tuple[Prompt, Sequence[str], Sequence[bool]]]:
        """Each prompt with its completions, and which of them ended."""
        rollout = self.rollout
        return list(zip(rollout.prompts, rollout.texts, rollout.ended, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedCompletions:
    """Each prompt with its completions as text, all of which have ended."""

    prompts: Sequence[Prompt]
    texts: Sequence[Sequence[str]]
    budgets: tuple[int, int] | None = None
    """Prompt and completion tokens that models read at most; what is longer is cut as training cuts it."""

    def groups(self, tokenizer: PreTrainedTokenizerBase) -> list[Group]:
        """In the tokens that a scorer reads."""
        return [
            completions_group(tokenizer, prompt, texts, origin="drawn", budgets=self.budgets)
            for prompt, texts, _ in self.written()
        ]

    def written(self) -> list[tuple[Prompt, Sequence[str], Sequence[bool]]]:
        """Each prompt with its completions, and which of them ended."""
        pairs = zip(self.prompts, self.texts, strict=True)
        return [(prompt, texts, [True] * len(texts)) for prompt, texts in pairs]


Asked = Drawn | EndedCompletions


def _pairs(asked: Asked) -> tuple[list[Prompt], list[str]]:
    """One prompt and one completion an item, prompt after prompt."""
    written = asked.written()
    return [p for p, texts, _ in written for _ in texts], [text for _, texts, _ in written for text in texts]


class EnsembleMember(Protocol):
    """A scorer of its own."""

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation stored with it; 0 and 1 if there are none."""
        ...

    def score(self, asked: Asked, *, tokens: int, world: World) -> Float[Tensor, " B"]:
        """A number for every completion, prompt after prompt, on the CPU. Processes of `world` share the work, and all get everything."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPart:
    """A reward model, read as it says it is to be read."""

    model: RewardModel
    tokenizer: PreTrainedTokenizerBase
    moments: tuple[float, float]
    context: str = ""

    def score(self, asked: Asked, *, tokens: int, world: World) -> Float[Tensor, " B"]:
        """The model's scores."""
        reading = self.model.reading
        if reading.at == "steps":
            groups = [
                steps_group(
                    self.tokenizer,
                    prompt.in_context(self.context),
                    texts,
                    ended,
                    reading.separator,
                    asked.budgets,
                )
                for prompt, texts, ended in asked.written()
            ]
        elif self.context:
            groups = _groups_in_context(self.tokenizer, asked, self.context)
        else:
            groups = asked.groups(self.tokenizer)
        return score_groups(self.model, groups, tokens=tokens, world=world)


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionPart:
    """A Python function."""

    function: Scorer
    moments: tuple[float, float] = (0.0, 1.0)

    def score(self, asked: Asked, *, tokens: int, world: World) -> Float[Tensor, " B"]:
        """What the function returns."""
        prompts, texts = _pairs(asked)
        return torch.tensor(list(self.function(prompts, texts)), dtype=torch.float32)


def user_function(name: str) -> Scorer:
    """A user's function, checked, and never asked about nothing."""
    function = load_function(name)

    def score(prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        return function(prompts, completions) if completions else []

    return score


@dataclass(frozen=True, kw_only=True, slots=True)
class ImplicitPart:
    """β(log π - log π_ref), summed over a completion's tokens: the reward that a DPO policy is optimal for (arXiv:2305.18290).

    With a strong and a weak model instead of policy and reference it is a density ratio that annotates without labels (arXiv:2411.02481).
    """

    policy: Policy
    reference: Policy
    tokenizer: PreTrainedTokenizerBase
    beta: float
    context: str = ""
    moments: tuple[float, float] = (0.0, 1.0)

    def score(self, asked: Asked, *, tokens: int, world: World) -> Float[Tensor, " B"]:
        """The log-ratios."""
        groups = (
            _groups_in_context(self.tokenizer, asked, self.context)
            if self.context
            else asked.groups(self.tokenizer)
        )
        ours, theirs = (
            summed_logprobs(model, groups, tokens=tokens, world=world)
            for model in (self.policy, self.reference)
        )
        return implicit_reward(ours, theirs, beta=self.beta)


def _groups_in_context(tokenizer: PreTrainedTokenizerBase, asked: Asked, context: str) -> list[Group]:
    return [
        completions_group(
            tokenizer, prompt.in_context(context), texts, ended=ended, origin="drawn", budgets=asked.budgets
        )
        for prompt, texts, ended in asked.written()
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleScorer:
    """One scorer, or several as one (arXiv:2310.02743).

    Of several each one's scores are first brought to mean 0 and standard deviation 1 by the moments stored with it: what two reward models
    have in common is an order, not a scale. Log-ratios and functions have no moments and count as they are.
    """

    parts: tuple[EnsembleMember, ...]
    rules: Combining
    normalise: bool
    """Whether a single scorer's scores are normalised too."""
    tokens: int
    world: World

    @classmethod
    def load(
        cls,
        given: str | Sequence[str],
        compute: Compute,
        world: World,
        *,
        rules: Combining = Combining(),  # noqa: B008  a frozen value
        normalise: bool = True,
        loaded: Sequence[RewardModel] = (),
        function: Callable[[str], Scorer] = user_function,
    ) -> "EnsembleScorer":
        """From names, in one string with commas or one by one; `loaded` are the reward models among them, in order, where they are there already.
        `function` opens what is named `module:function`, and whatever else has a colon.

        Members of an ensemble should differ in seed and order of data, or they agree for no reason. Raises `InputError` for no name, for one
        that cannot be loaded, and for rules that would change nothing.
        """
        names = scorers_named(given if isinstance(given, str) else ",".join(given) if given else "")
        check_combining(names, rules)
        ready = iter(loaded)
        parts = tuple(
            FunctionPart(function=function(name.name))
            if name.kind == "function"
            else _load_part(name, rules, compute, next(ready, None) if name.kind == "model" else None)
            for name in names
        )
        return cls(
            parts=parts, rules=rules, normalise=normalise, tokens=compute.micro_batch_tokens, world=world
        )

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation that its scores are still to be normalised by: those of a single scorer, 0 and 1 of several."""
        return self.parts[0].moments if len(self.parts) == 1 and not self.normalise else (0.0, 1.0)

    @property
    def roles(self) -> list[RewardModel | Policy]:
        """The models of its members."""
        found: list[RewardModel | Policy] = []
        for part in self.parts:
            if isinstance(part, ModelPart):
                found.append(part.model)
            elif isinstance(part, ImplicitPart):
                found += [part.policy, part.reference]
        return found

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the first member that has one. Raises `InputError` if all are Python functions."""
        for part in self.parts:
            if isinstance(part, ModelPart | ImplicitPart):
                return part.tokenizer
        raise InputError("reward_model names Python functions only; a model is needed here")

    def members_of(self, asked: Asked, world: World | None = None) -> Float[Tensor, "M B"]:
        """Every member's score of every completion, normalised where there are several."""
        rows = []
        for part in self.parts:
            mean, std = part.moments if len(self.parts) > 1 or self.normalise else (0.0, 1.0)
            rows.append((part.score(asked, tokens=self.tokens, world=world or self.world) - mean) / std)
        return torch.stack(rows)

    def combine(self, members: Float[Tensor, "M B"]) -> Float[Tensor, " B"]:
        """One number from each member's."""
        rule = ENSEMBLES[self.rules.combine]
        if self.rules.combine == "penalised":
            rule = partial(rule, penalty=self.rules.variance_penalty)
        return rule(members)

    def of_texts(
        self,
        prompts: Sequence[Prompt],
        texts: Sequence[Sequence[str]],
        *,
        budgets: tuple[int, int] | None = None,
    ) -> Float[Tensor, " B"]:
        """Scores of several completions of each prompt, prompt after prompt; what is over the budgets of tokens is cut."""
        return self.combine(self.members_of(EndedCompletions(prompts=prompts, texts=texts, budgets=budgets)))

    def members(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Float[Tensor, "M B"]:
        """Every member's score of one completion of each prompt."""
        return self.members_of(EndedCompletions(prompts=prompts, texts=[[text] for text in completions]))

    def disagreement(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Standard deviation of each completion's scores over members: where it is large, a label teaches most."""
        return self.members(prompts, completions).std(dim=0, unbiased=False).tolist()

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """One score for every completion, in their order."""
        return self.combine(self.members(prompts, completions)).tolist()


def _load_part(name: Named, rules: Combining, compute: Compute, loaded: RewardModel | None) -> EnsembleMember:
    tokenizer = load_tokenizer(name.name, trust_remote_code=compute.trust_remote_code)
    if name.kind == "model":
        model = loaded or load_reward_model(name.name, compute)
        model.requires_grad_(False)
        check_vocabulary(tokenizer, vocabulary_size(model))
        # On a trunk shared with the policy the configuration in memory is the policy's.
        on_trunk = model.adapter_name != BASE
        moments = stored_reward_moments(name.name) if on_trunk else reward_moments(model)
        return ModelPart(model=model, tokenizer=tokenizer, moments=moments, context=rules.context)
    theirs = load_tokenizer(name.reference, trust_remote_code=compute.trust_remote_code)
    check_same_tokens(tokenizer, theirs, what=f"{name.reference!r}, the reference of a log-ratio,")
    policy, reference = load_policy(name.name, compute), load_policy(name.reference, compute)
    for role in (policy, reference):
        role.requires_grad_(False)
        check_vocabulary(tokenizer, vocabulary_size(role))
    return ImplicitPart(
        policy=policy, reference=reference, tokenizer=tokenizer, beta=rules.beta, context=rules.context
    )


class RolloutScorer(Protocol):
    """Scores this process's own rollouts."""

    def __call__(self, rollout: Rollout) -> Float[Tensor, " B"]:
        """A score for every completion, prompt after prompt."""
        ...

    def metrics(self, world: World) -> dict[str, float]:
        """What is reported since it was last asked. Collective: all processes call it."""
        ...


class OnlineScorer:
    """Scores this process's own rollouts, and reports how much its members disagreed since it was last asked."""

    def __init__(self, scorer: EnsembleScorer, tokenizer: PreTrainedTokenizerBase, world: World) -> None:
        self._scorer = scorer
        self._tokenizer = tokenizer
        self._device = world.device
        # Every process scores what it has drawn itself, so nothing is shared.
        self._alone = World(rank=0, size=1, device=world.device)
        self._seen = Metrics()

    @property
    def moments(self) -> tuple[float, float]:
        """What scores are to be normalised by."""
        return self._scorer.moments

    def __call__(self, rollout: Rollout) -> Float[Tensor, " B"]:
        """A score for every completion, prompt after prompt."""
        members = self._scorer.members_of(Drawn(rollout=rollout, tokenizer=self._tokenizer), self._alone)
        if len(members) > 1 and len(rollout):
            self._seen.add("disagreement", members.std(dim=0, unbiased=False).sum().item(), members.shape[1])
        return self._scorer.combine(members).to(self._device)

    def metrics(self, world: World) -> dict[str, float]:
        """`disagreement`, of several members: mean standard deviation of a completion's normalised scores over them."""
        seen, self._seen = self._seen, Metrics()
        return seen.reduce(world) if len(self._scorer.parts) > 1 else {}
