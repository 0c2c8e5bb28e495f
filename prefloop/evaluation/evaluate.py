"""Run policies and the reward model on held-out prompts and measure them. The statistics are the other modules'; here the models run."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import Compute, Data, Sampling
from prefloop.configs.scorers import Combining
from prefloop.evaluation.intervals import (
    Estimate,
    exactly,
    mean_interval,
    paired_difference,
    rate_interval,
    ratio_interval,
)
from prefloop.evaluation.label_noise import ceiling_of_agreement, ceiling_of_soft_labels
from prefloop.evaluation.reward_model_quality import (
    BestOf,
    RewardModelQuality,
    accuracy_against_gold,
    best_of_n,
    reward_model_quality,
)
from prefloop.evaluation.summary import EvaluatedCompletion, EvaluatedPolicy, PolicySummary
from prefloop.evaluation.text_metrics import measure_texts
from prefloop.evaluation.text_statistics import policy_alarms, text_statistics
from prefloop.evaluation.win_rate import WinMatrix, win_matrix, win_rate
from prefloop.models.encoder_decoder import positions_needed
from prefloop.models.generation import say_what_is_not_taken
from prefloop.models.load import load_config, load_policy
from prefloop.models.roles import Policy, vocabulary_size
from prefloop.models.trunk import check_length, check_positions
from prefloop.records import Comparison, Prompt
from prefloop.rollout import Rollout, make_rollout, sample
from prefloop.rollout.reward_scorers import Drawn, EnsembleScorer, ModelPart
from prefloop.rollout.scoring import summed_kl, summed_logprobs
from prefloop.runtime import World
from prefloop.runtime.progress import Progress
from prefloop.text import (
    check_same_tokens,
    check_vocabulary,
    decode_completion,
    encode_all,
    encode_prompts,
    load_tokenizer,
    stop_token_ids,
)
from prefloop.text.encode import EncodedPrompts
from prefloop.text.groups import Group

Gold = Callable[[Prompt, str], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How every policy is asked."""

    sampling: Sampling
    completions_per_prompt: int
    seed: int
    max_prompt_tokens: int
    truncate: bool = False
    """Longer prompts keep their end, as training cuts them; else they are an error."""
    compute: Compute
    world: World


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one policy answered, and what gold judge and reward model say of each completion, prompt after prompt."""

    rollout: Rollout
    gold: np.ndarray
    """Empty if there is no gold judge."""
    proxy: np.ndarray
    """Empty if there is no reward model."""
    kl: np.ndarray
    """Exact KL to the first policy, summed over the completion, nats."""
    nll: np.ndarray
    """Negative log-likelihood of the completion under the first policy, nats."""
    tokens: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyResults:
    """What evaluating policies gives."""

    policies: tuple[PolicySummary, ...]
    evaluated: tuple[EvaluatedPolicy, ...]
    wins: WinMatrix
    alarms: tuple[str, ...]
    best_of_n: tuple[BestOf, ...] = ()
    """Of the first policy, where there are a gold judge, a reward model and several completions of each prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextMeasures:
    """What is measured on the texts."""

    metrics: Sequence[str] = ()
    """Named as in `text_metrics`."""
    references: Sequence[Sequence[str]] = ()
    """Each prompt's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBudget:
    """How many tokens of a comparison a reward model reads."""

    prompt: int
    completion: int
    truncate: bool = False
    """What is longer is cut as training cuts it; else it is an error."""

    @classmethod
    def of(cls, data: Data) -> "TokenBudget":
        """That of the settings."""
        return cls(
            prompt=data.max_prompt_tokens,
            completion=data.max_completion_tokens,
            truncate=data.overlong == "truncate",
        )


def evaluate_policies(
    folders: Mapping[str, str],
    prompts: Sequence[Prompt],
    setting: Setting,
    *,
    gold: Gold | None,
    reward_model: str = "",
    rules: Combining = Combining(),  # noqa: B008  a frozen value
    gold_is_log_odds: bool = False,
    texts: TextMeasures = TextMeasures(),
) -> PolicyResults:
    """Every policy on the same prompts with the same random numbers. The first is what the others are compared with.

    KL is to the first policy, on each policy's own completions, from the full next-token distributions. `gold_is_log_odds` adds the share of
    completions with a gold utility above 0. Only process 0's result is complete; all must call it.
    """
    names = list(folders)
    tokenizers = {name: _tokenizer(folder, setting) for name, folder in folders.items()}
    for name in names[1:]:
        what = f"policy {name} ({folders[name]})"
        check_same_tokens(tokenizers[names[0]], tokenizers[name], what=what)
    _check_room(folders, tokenizers[names[0]], prompts, setting)
    reference = load_policy(folders[names[0]], setting.compute)
    scorer = _open_scorer(reward_model, setting, rules) if reward_model else None
    measured: dict[str, Measured] = {}
    for name in names:
        setting.world.say(f"evaluating {name} on {len(prompts)} prompts")
        policy = reference if name == names[0] else load_policy(folders[name], setting.compute)
        check_vocabulary(tokenizers[name], vocabulary_size(policy))
        if setting.world.is_main:
            say_what_is_not_taken(policy.model, setting.sampling)
        measured[name] = _measure(policy, tokenizers[name], reference, prompts, setting, gold, scorer)
    places = [place for place in range(len(prompts)) for _ in range(setting.completions_per_prompt)]
    references = [texts.references[place] for place in places] if texts.metrics else []
    further = {
        name: measure_texts(texts.metrics, *m.rollout.pairs(), references, clusters=places, seed=setting.seed)
        for name, m in measured.items()
    }
    return _summarise(folders, measured, setting, gold is not None, gold_is_log_odds, further)


def _check_room(
    folders: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    setting: Setting,
) -> None:
    """Raise `InputError` for the first prompt that some policy has no positions for, before any of them runs."""
    new_tokens = setting.sampling.max_new_tokens
    ids = _encoded(tokenizer, prompts, setting).prompts
    longest = max(range(len(ids)), key=lambda i: len(ids[i]))
    for name, folder in folders.items():
        config = load_config(folder, setting.compute)
        if config is not None:
            check_positions(
                config,
                folder,
                positions_needed(config, len(ids[longest]), new_tokens),
                what=f"policy {name}: prompt {longest + 1} with sampling.max_new_tokens = {new_tokens}",
                way_out="lower data.max_prompt_tokens (see data.overlong) or sampling.max_new_tokens",
            )


def _encoded(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], setting: Setting
) -> EncodedPrompts:
    overlong = "truncate" if setting.truncate else "error"
    return encode_prompts(tokenizer, prompts, max_prompt_tokens=setting.max_prompt_tokens, overlong=overlong)


def _tokenizer(folder: str, setting: Setting) -> PreTrainedTokenizerBase:
    return load_tokenizer(folder, trust_remote_code=setting.compute.trust_remote_code)


def _open_scorer(reward_model: str, setting: Setting, rules: Combining) -> EnsembleScorer:
    """The scorers, a single one as it is."""
    return EnsembleScorer.load(reward_model, setting.compute, setting.world, rules=rules, normalise=False)


def proxy_scores(scorer: EnsembleScorer, rollout: Rollout, policy: PreTrainedTokenizerBase) -> np.ndarray:
    """Of every completion; `policy` is the tokenizer that drew them."""
    members = scorer.members_of(Drawn(rollout=rollout, tokenizer=policy))
    return scorer.combine(members).double().numpy()


def _measure(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    reference: Policy,
    prompts: Sequence[Prompt],
    setting: Setting,
    gold: Gold | None,
    scorer: EnsembleScorer | None,
) -> Measured:
    rollout = answer(policy, tokenizer, prompts, setting)
    groups, options = rollout.groups, {"tokens": setting.compute.micro_batch_tokens, "world": setting.world}
    asked, texts = rollout.pairs()
    utilities = proxy = np.array([])
    if gold:
        utilities = np.array([gold(prompt, text) for prompt, text in zip(asked, texts, strict=True)])
    if scorer:
        proxy = proxy_scores(scorer, rollout, tokenizer)
    kl = np.zeros(len(texts))
    if policy is not reference:
        temperature = setting.sampling.temperature or 1.0
        kl = summed_kl(policy, reference, groups, temperature=temperature, **options).double().numpy()
    return Measured(
        rollout=rollout,
        gold=utilities,
        proxy=proxy,
        kl=kl,
        nll=-summed_logprobs(reference, groups, **options).double().numpy(),
        tokens=np.array(
            [len(completion) for group in groups for completion in group.completions], dtype=float
        ),
    )


def answer(
    policy: Policy, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], setting: Setting
) -> Rollout:
    """The policy's completions of all prompts, shared over processes; the same on every process."""
    encoded = _encoded(tokenizer, prompts, setting)
    world, k = setting.world, setting.completions_per_prompt
    places = world.share(range(len(prompts)))
    progress = Progress(
        stage="eval",
        start=0,
        total=len(prompts) * k,
        headline=(),
        shown=world.is_main,
        unit="completion",
    )
    progress.begin()
    with policy.active() as model, closing(progress):
        own = sample(
            model,
            [encoded.prompts[i] for i in places],
            k=k,
            stop_ids=stop_token_ids(tokenizer),
            sampling=setting.sampling,
            seed=setting.seed,
            row_keys=places,
            progress=progress.follow(processes=world.size),
        )
    found = {
        place: drawn
        for part in world.gather_objects(dict(zip(places, own, strict=True)))
        for place, drawn in part.items()
    }
    samples = [found[i] for i in range(len(prompts))]
    return make_rollout(prompts, encoded.prompts, samples, lambda ids: decode_completion(tokenizer, ids))


def _summarise(
    folders: Mapping[str, str],
    measured: Mapping[str, Measured],
    setting: Setting,
    has_gold: bool,
    gold_is_log_odds: bool,
    texts: Mapping[str, Mapping[str, Estimate]],
) -> PolicyResults:
    first, *_ = folders
    base = measured[first]
    prompts = np.repeat(np.arange(len(base.rollout.prompts)), setting.completions_per_prompt)
    clusters = prompts if setting.completions_per_prompt > 1 else None
    statistics = {
        name: text_statistics(
            [text for texts in m.rollout.texts for text in texts],
            prompts=prompts,
            ended=[end for ends in m.rollout.ended for end in ends],
            lengths=m.tokens,
        )
        for name, m in measured.items()
    }
    summaries, evaluated, alarms = [], [], []
    for name, m in measured.items():
        n, is_first = len(prompts), name == first
        further: dict[str, Estimate] = {}
        per_token = ratio_interval(m.nll, m.tokens, clusters=prompts, seed=setting.seed)
        further[f"perplexity_under_{first}"] = _exponential(per_token)
        if has_gold and gold_is_log_odds:
            further["positive_share"] = rate_interval((m.gold > 0).astype(float), clusters=clusters)
        further |= texts.get(name, {})
        summaries.append(
            PolicySummary(
                name=name,
                checkpoint=folders[name],
                kl=exactly(0.0, n) if is_first else mean_interval(m.kl, clusters=clusters),
                length=statistics[name].length,
                repetition=statistics[name].repetition,
                gold=mean_interval(m.gold, clusters=clusters) if has_gold else None,
                proxy=mean_interval(m.proxy, clusters=clusters) if len(m.proxy) else None,
                win_rate_vs_sft=_win_rate(m, base, clusters, is_first) if has_gold else None,
                further=further,
            )
        )
        evaluated.append(EvaluatedPolicy(name=name, completions=_completions(m), text=statistics[name]))
        if not is_first and len(m.proxy):
            alarms += policy_alarms(
                name,
                proxy_gain=paired_difference(m.proxy, base.proxy, clusters=clusters),
                gold_gain=paired_difference(m.gold, base.gold, clusters=clusters) if has_gold else None,
                before=statistics[first],
                after=statistics[name],
            )
    wins = (
        win_matrix({name: m.gold for name, m in measured.items()}, clusters=clusters)
        if has_gold
        else WinMatrix(names=(), rates=())
    )
    shape = (-1, setting.completions_per_prompt)
    curve = (
        best_of_n(base.proxy.reshape(shape), base.gold.reshape(shape))
        if has_gold and len(base.proxy) and setting.completions_per_prompt > 1
        else ()
    )
    return PolicyResults(
        policies=tuple(summaries),
        evaluated=tuple(evaluated),
        wins=wins,
        alarms=tuple(alarms),
        best_of_n=curve,
    )


def _win_rate(m: Measured, base: Measured, clusters: np.ndarray | None, is_first: bool) -> Estimate:
    return exactly(0.5, len(m.gold)) if is_first else win_rate(m.gold, base.gold, clusters=clusters)


def _exponential(estimate: Estimate) -> Estimate:
    """A perplexity from a mean negative log-likelihood."""
    value, low, high = map(math.exp, (estimate.value, estimate.low, estimate.high))
    return replace(estimate, value=value, low=low, high=high)


def _completions(m: Measured) -> tuple[tuple[EvaluatedCompletion, ...], ...]:
    rows, result = iter(range(len(m.tokens))), []
    for texts, ends in zip(m.rollout.texts, m.rollout.ended, strict=True):
        result.append(
            tuple(
                EvaluatedCompletion(
                    text=text,
                    gold=float(m.gold[row]) if len(m.gold) else None,
                    proxy=float(m.proxy[row]) if len(m.proxy) else None,
                    tokens=int(m.tokens[row]),
                    ended=end,
                )
                for text, end, row in zip(texts, ends, rows, strict=False)
            )
        )
    return tuple(result)


def evaluate_reward_model(
    folder: str,
    comparisons: Sequence[Comparison],
    *,
    budget: TokenBudget,
    compute: Compute,
    world: World,
    gold: Gold | None = None,
    ceiling: float | None = None,
    rules: Combining = Combining(),  # noqa: B008  a frozen value
) -> RewardModelQuality:
    """Accuracy, calibration and length bias on held-out comparisons, with intervals clustered by prompt; of one reward model or several as one.

    `gold` adds the accuracy against noise-free utilities (unless they are equal in every pair), `ceiling` what a perfect model would reach on labels as noisy as these.
    Soft labels, and pairs with several labels, say that themselves (`label_noise`).
    Comparisons over the budget raise `InputError`, unless it truncates: nothing is left out of an evaluation silently. What a model has no positions for is an `InputError` before it runs.
    """
    scorer = EnsembleScorer.load(folder, compute, world, rules=rules, normalise=False)
    encoded = encode_all(
        scorer.tokenizer,
        comparisons,
        max_prompt_tokens=budget.prompt,
        max_completion_tokens=budget.completion,
        overlong="truncate" if budget.truncate else "error",
    )
    _check_scorer_room(scorer, comparisons, encoded.groups)
    scores = scorer.of_texts(
        [c.prompt.in_context(c.context) for c in comparisons],
        [(c.chosen, c.rejected) for c in comparisons],
        budgets=(budget.prompt, budget.completion) if budget.truncate else None,
    )
    chosen, rejected = scores.double().view(-1, 2).numpy().T
    clusters = [comparison.prompt.sha256 for comparison in comparisons]
    lengths = np.array(
        [[len(completion) for completion in group.completions] for group in encoded.groups], dtype=float
    )
    gold_accuracy = None
    if gold is not None:
        chosen_gold = [gold(c.prompt, c.chosen) for c in comparisons]
        rejected_gold = [gold(c.prompt, c.rejected) for c in comparisons]
        if chosen_gold != rejected_gold:  # a policy that has learned little may write nothing but ties
            gold_accuracy = accuracy_against_gold(
                chosen, rejected, chosen_gold, rejected_gold, clusters=clusters
            )
    return reward_model_quality(
        chosen,
        rejected,
        lengths[:, 0],
        lengths[:, 1],
        clusters=clusters,
        ceiling=ceiling_of_soft_labels(comparisons) if ceiling is None else ceiling,
        label_ceiling=ceiling_of_agreement(comparisons),
        gold_accuracy=gold_accuracy,
    )


def _check_scorer_room(
    scorer: EnsembleScorer, comparisons: Sequence[Comparison], groups: Sequence[Group]
) -> None:
    for part in scorer.parts:
        if isinstance(part, ModelPart):
            config = part.model.model.config
            lengths = [
                positions_needed(config, len(group.prompt), max(map(len, group.completions)))
                for group in groups
            ]
            longest = max(range(len(lengths)), key=lengths.__getitem__)
            where = comparisons[longest].origin or f"comparison {longest + 1}"
            check_length(
                part.model.model,
                lengths[longest],
                what=f"{where}: the prompt with its longest completion",
                way_out="shorten it, or lower data.max_prompt_tokens or data.max_completion_tokens (see data.overlong)",
            )


def best_of_n_curve(
    policy: str, reward_model: str, prompts: Sequence[Prompt], setting: Setting, *, gold: Gold
) -> tuple[BestOf, ...]:
    """Proxy and gold of the policy with best-of-n by the reward model, n up to `completions_per_prompt`."""
    tokenizer = _tokenizer(policy, setting)
    rollout = answer(load_policy(policy, setting.compute), tokenizer, prompts, setting)
    proxy = proxy_scores(_open_scorer(reward_model, setting, Combining()), rollout, tokenizer)
    asked, texts = rollout.pairs()
    utilities = np.array([gold(prompt, text) for prompt, text in zip(asked, texts, strict=True)])
    shape = (len(prompts), setting.completions_per_prompt)
    return best_of_n(proxy.reshape(shape), utilities.reshape(shape))
