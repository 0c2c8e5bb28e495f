"""Written by `python -m tests.public_api`; see `prefloop/__init__.py`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from prefloop.api.aligning import Aligned, AlignPlan
from prefloop.api.evaluating import Evaluated
from prefloop.api.measures import agreement as agreement, ratings as ratings, verifier as verifier, win_rate as win_rate
from prefloop.api.results import FinishedRun, PolicyRun, RewardRun, open_run as open_run
from prefloop.api.studying import FinishedStudy
from prefloop.api.texts import TextPolicy, TextScorer, load_policy as load_policy, load_reward_model as load_reward_model
from prefloop.data.store import Store as Store
from prefloop.errors import InputError as InputError
from prefloop.studio.client import RemoteStudio as Studio

__version__: str
__all__: list[str]
STAGE_NAMES: tuple[str, ...]

Model = str | Path | FinishedRun | TextPolicy
Scorer = Model | TextScorer | Callable[..., Any]
Rows = str | Path | Store | Iterable[Mapping[str, Any]] | Any

class PreferencesSettings(TypedDict, total=False):
    """The comparisons, and how long their texts may be."""

    source: str
    split: str
    format: str
    columns: Sequence[str]
    chat: bool
    max_gb: float
    limit: int
    skip_bad: bool
    max_prompt_tokens: int
    max_completion_tokens: int

class ComputeSettings(TypedDict, total=False):
    """Device, precision and memory. Affects speed and memory, and results only by float noise (`quantize`: by rounding)."""

    device: Literal['auto', 'cpu', 'cuda']
    dtype: Literal['float32', 'bfloat16']
    quantize: Literal['none', 'nf4', 'int8']
    attention: Literal['auto', 'packed', 'padded']
    shard: Literal['none', 'full', 'hybrid']
    offload: bool
    micro_batch_tokens: int
    gradient_checkpointing: bool
    trust_remote_code: bool
    wait_minutes: float

class DataSettings(TypedDict, total=False):
    """What to read, and which part of it is held out."""

    source: str
    split: str
    format: str
    columns: Sequence[str]
    chat: bool
    max_gb: float
    select: Mapping[str, Any] | Any
    heldout: float
    limit: int
    max_prompt_tokens: int
    max_completion_tokens: int
    overlong: Literal['error', 'drop', 'truncate']
    skip_bad: bool

class CombiningSettings(TypedDict, total=False):
    """How several scorers are combined into one number, and what they read."""

    combine: Literal['mean', 'worst', 'penalised']
    variance_penalty: float
    beta: float
    context: str

class SamplingSettings(TypedDict, total=False):
    """How completions are drawn."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    batch_size: int

class RunSettingsSettings(TypedDict, total=False):
    """The run folder: what is written there, how often, and what stops a run."""

    out: str | Path
    store: str
    seed: int
    resume: bool
    save_every: int
    keep: int
    log_every: int
    track: Literal['tensorboard', 'wandb', 'mlflow', 'trackio']
    max_nonfinite: int
    tune: bool

class ArchitectureSettings(TypedDict, total=False):
    """A Llama-shaped causal language model."""

    hidden_size: int
    layers: int
    heads: int
    ffn_size: int
    vocab_size: int
    max_positions: int
    tie_embeddings: bool

class OptimSettings(TypedDict, total=False):
    """AdamW and its schedule."""

    lr: float
    schedule: Literal['constant', 'linear', 'cosine']
    warmup: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    max_grad_norm: float

class LoRASettings(TypedDict, total=False):
    """Low-rank adapters (arXiv:2106.09685) instead of training every weight."""

    rank: int
    alpha: float
    targets: Sequence[str]
    adapter: Literal['merge', 'train']

class FollowPolicySettings(TypedDict, total=False):
    """Let the reference follow the policy (TR-DPO, arXiv:2404.09656)."""

    every: int
    rate: float

class OnlineSamplingSettings(TypedDict, total=False):
    """How a stage's own completions are drawn, and by what."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    batch_size: int
    engine: str
    sync: Literal['auto', 'adapter', 'disk', 'gloo', 'nccl', 'ipc']
    engine_minutes: float
    engine_tolerance: float
    staleness: int
    partial: bool
    engine_memory: float

class KLSettings(TypedDict, total=False):
    """The KL penalty that keeps the policy near the reference."""

    coef: float
    placement: Literal['reward', 'loss']
    estimator: Literal['k1', 'k2', 'k3', 'exact']
    target: float
    horizon: int

class RewardShapingSettings(TypedDict, total=False):
    """What happens to a score before it becomes the reward of the last token, in this order; then to the rewards."""

    combine: Literal['mean', 'worst', 'penalised']
    variance_penalty: float
    beta: float
    context: str
    normalise: bool
    scale: bool
    clip: float
    residual: bool
    length_penalty: float
    overlong: int
    missing_eos: float
    whiten: bool

class EnvironmentSettingsSettings(TypedDict, total=False):
    """An environment that answers the policy, and the limits of a conversation with it."""

    name: str
    max_turns: int
    max_tokens: int
    seconds: float
    parallel: int
    on_error: Literal['stop', 'count']
    failure_reward: float

class ImportanceSettings(TypedDict, total=False):
    """Weights for completions whose sampler had other numbers than the trainer: the ratio of their probabilities, bounded."""

    rule: Literal['auto', 'off', 'truncate', 'mask']
    level: Literal['token', 'sequence_mean', 'sequence_sum']
    low: float
    high: float

class CriticSettingsSettings(TypedDict, total=False):
    """The value function."""

    start: Literal['reward', 'policy', 'shared']
    warmup_steps: int
    coef: float
    clip: float
    optim: Mapping[str, Any] | Any

class ScoreShapingSettings(TypedDict, total=False):
    """How scorers are read, and what happens to a score before it becomes the reward of the last token, in this order."""

    combine: Literal['mean', 'worst', 'penalised']
    variance_penalty: float
    beta: float
    context: str
    normalise: bool
    scale: bool
    clip: float
    residual: bool
    length_penalty: float
    overlong: int
    missing_eos: float

def align(
    *,
    model: Model,
    data: Rows | PreferencesSettings,
    demonstrations: str = ...,
    prompts: str = ...,
    method: Literal['dpo', 'ipo', 'simpo', 'orpo', 'ppo', 'grpo', 'rloo', 'online_dpo'] | Sequence[Literal['dpo', 'ipo', 'simpo', 'orpo', 'ppo', 'grpo', 'rloo', 'online_dpo']] = ...,
    judge: str | Callable[..., Any] = ...,
    weights: Literal['auto', 'lora', 'all'] = ...,
    rank: int = ...,
    precision: Literal['auto', 'float32', 'bfloat16'] = ...,
    lr: float = ...,
    beta: float = ...,
    kl: float = ...,
    minutes: float = ...,
    eval_prompts: int = ...,
    eval_answers: int = ...,
    seed: int = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    yes: bool = ...,
    resume: bool = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> Aligned:
    """Make a model better with a file of comparisons, and report whether it is: plan, train, judge by a model that no policy learned from."""

def plan(
    *,
    model: Model,
    data: Rows | PreferencesSettings,
    demonstrations: str = ...,
    prompts: str = ...,
    method: Literal['dpo', 'ipo', 'simpo', 'orpo', 'ppo', 'grpo', 'rloo', 'online_dpo'] | Sequence[Literal['dpo', 'ipo', 'simpo', 'orpo', 'ppo', 'grpo', 'rloo', 'online_dpo']] = ...,
    judge: str | Callable[..., Any] = ...,
    weights: Literal['auto', 'lora', 'all'] = ...,
    rank: int = ...,
    precision: Literal['auto', 'float32', 'bfloat16'] = ...,
    lr: float = ...,
    beta: float = ...,
    kl: float = ...,
    minutes: float = ...,
    eval_prompts: int = ...,
    eval_answers: int = ...,
    seed: int = ...,
    compute: ComputeSettings | Any = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> AlignPlan:
    """Say what `prefloop align` would do with a model and a file of comparisons, and what it would cost, without doing it."""

def study(
    *,
    name: str = ...,
    out: str | Path = ...,
    list: bool = ...,
    size: Literal['smallest', 'small', 'large'] = ...,
    settings: Sequence[str] = ...,
    seeds: int = ...,
    jobs: int = ...,
    data: str = ...,
    model: Model = ...,
    resume: bool = ...,
    docs: str = ...,
    minutes: float = ...,
) -> FinishedStudy:
    """Make one of the field's published curves again: cells run over seeds in parallel, a table and a figure with intervals, and what differs."""

def evaluate(
    *,
    out: str | Path = ...,
    data: Rows | DataSettings = ...,
    policies: Mapping[str, Model] | Sequence[str] = ...,
    reward_model: Scorer | Sequence[Scorer] = ...,
    reward: CombiningSettings | Scorer | Sequence[Scorer] | Any = ...,
    comparisons: str = ...,
    gold: str | Callable[..., Any] = ...,
    metrics: Sequence[str | Callable[..., Any]] | Callable[..., Any] = ...,
    part: Literal['auto', 'heldout', 'train', 'all'] = ...,
    completions_per_prompt: int = ...,
    store: str = ...,
    seed: int = ...,
    sampling: SamplingSettings | Any = ...,
    compute: ComputeSettings | Any = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> Evaluated:
    """Measure policies on the same held-out prompts, and a reward model on held-out comparisons; every number has its interval."""

def pretrain(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model = ...,
    architecture: ArchitectureSettings | Any = ...,
    block_tokens: int = ...,
    batch_blocks: int = ...,
    epochs: float = ...,
    max_steps: int = ...,
    eval_every: int = ...,
    optim: OptimSettings | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Train a byte-level BPE tokenizer and a causal language model from scratch, or continue from a model."""

def sft(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    batch_size: int = ...,
    epochs: float = ...,
    max_steps: int = ...,
    eval_every: int = ...,
    l1: float = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Supervised fine-tuning: cross-entropy on completion tokens only, the stop token included."""

def reward(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    loss: Literal['bradley_terry', 'token_level', 'all_pairs', 'plackett_luce', 'best_of', 'binary', 'outcome', 'regression', 'ordinal', 'process', 'segments'] = ...,
    keep_head: bool = ...,
    batch_size: int = ...,
    epochs: float = ...,
    max_steps: int = ...,
    label_smoothing: float = ...,
    margin: bool = ...,
    random_share: float = ...,
    swap_contexts: bool = ...,
    step_separator: str = ...,
    step_rule: Literal['minimum', 'product', 'last'] = ...,
    length_residual: bool = ...,
    centring: float = ...,
    normalise: bool = ...,
    eval_every: int = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> RewardRun:
    """A reward model: Bradley-Terry on comparisons by default, or from rankings, labels, scores or steps."""

def dpo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reference: Model = ...,
    beta: float = ...,
    label_smoothing: float = ...,
    sft_coef: float = ...,
    batch_size: int = ...,
    epochs: float = ...,
    max_steps: int = ...,
    eval_every: int = ...,
    reference_cache: str = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Direct preference optimisation (arXiv:2305.18290)."""

def prefer(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    loss: Scorer | Sequence[Scorer] = ...,
    settings: Sequence[str] = ...,
    from_comparisons: bool = ...,
    reference: Model = ...,
    reference_last: Model = ...,
    follow: FollowPolicySettings | Any = ...,
    sft_coef: float = ...,
    batch_size: int = ...,
    epochs: float = ...,
    max_steps: int = ...,
    eval_every: int = ...,
    reference_cache: str = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Train a policy directly on preferences: comparisons, rankings, labels or scores, by the objective that `loss` names."""

def ppo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    gamma: float = ...,
    lam: float = ...,
    whiten_advantages: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    kl: KLSettings | Any = ...,
    reward: RewardShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    compute: ComputeSettings | Any = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    epochs: int = ...,
    minibatches: int = ...,
    clip: float = ...,
    dual_clip: float = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    critic: CriticSettingsSettings | Any = ...,
    ptx: str = ...,
    ptx_coef: float = ...,
    ema: float = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Proximal policy optimisation (arXiv:1707.06347) with policy, reference, critic and reward model."""

def nlpo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    gamma: float = ...,
    lam: float = ...,
    whiten_advantages: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    kl: KLSettings | Any = ...,
    reward: RewardShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    compute: ComputeSettings | Any = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    epochs: int = ...,
    minibatches: int = ...,
    clip: float = ...,
    dual_clip: float = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    critic: CriticSettingsSettings | Any = ...,
    ptx: str = ...,
    ptx_coef: float = ...,
    ema: float = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    top_p: float = ...,
    mask_least: int = ...,
    mask_every: int = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Natural language policy optimisation (arXiv:2210.01241): PPO restricted to the likely tokens of a masking policy, a delayed copy of the policy."""

def a2c(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    gamma: float = ...,
    lam: float = ...,
    whiten_advantages: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    kl: KLSettings | Any = ...,
    reward: RewardShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    compute: ComputeSettings | Any = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    epochs: int = ...,
    minibatches: int = ...,
    clip: float = ...,
    dual_clip: float = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    critic: CriticSettingsSettings | Any = ...,
    ptx: str = ...,
    ptx_coef: float = ...,
    ema: float = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Advantage actor-critic (arXiv:1602.01783): one update from each batch. PPO's surrogate then has ratio 1, and its gradient is A2C's."""

def trpo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    reference: Model = ...,
    sampling: SamplingSettings | Any = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    gamma: float = ...,
    lam: float = ...,
    whiten_advantages: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    kl: KLSettings | Any = ...,
    reward: RewardShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    compute: ComputeSettings | Any = ...,
    max_kl: float = ...,
    cg_iterations: int = ...,
    cg_damping: float = ...,
    backtracks: int = ...,
    critic: CriticSettingsSettings | Any = ...,
    critic_epochs: int = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Trust-region policy optimisation (arXiv:1502.05477): a natural-gradient step of bounded KL, and a critic."""

def grpo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    epochs: int = ...,
    minibatches: int = ...,
    advantage: Literal['return', 'leave_one_out', 'group_mean', 'group_std'] = ...,
    baseline: Literal['none', 'running', 'greedy'] = ...,
    whiten_advantages: bool = ...,
    ratio: Literal['token', 'sequence_mean', 'sequence_sum'] = ...,
    surrogate: Literal['score', 'clipped', 'weighted'] = ...,
    clip_low: float = ...,
    clip_high: float = ...,
    reduction: Literal['token_mean', 'sequence_mean', 'sequence_sum', 'fixed_length'] = ...,
    dynamic_sampling: int = ...,
    mask_truncated: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    kl: KLSettings | Any = ...,
    kl_weighted: bool = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """GRPO (arXiv:2402.03300): rewards standardised within each prompt's group, PPO's clip, k3 in the loss."""

def dr_grpo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    epochs: int = ...,
    minibatches: int = ...,
    advantage: Literal['return', 'leave_one_out', 'group_mean', 'group_std'] = ...,
    baseline: Literal['none', 'running', 'greedy'] = ...,
    whiten_advantages: bool = ...,
    ratio: Literal['token', 'sequence_mean', 'sequence_sum'] = ...,
    surrogate: Literal['score', 'clipped', 'weighted'] = ...,
    clip_low: float = ...,
    clip_high: float = ...,
    reduction: Literal['token_mean', 'sequence_mean', 'sequence_sum', 'fixed_length'] = ...,
    dynamic_sampling: int = ...,
    mask_truncated: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    kl: KLSettings | Any = ...,
    kl_weighted: bool = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Dr. GRPO (arXiv:2503.20783): GRPO without the two divisions that bias it, by the group's deviation and by the completion's length."""

def dapo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    epochs: int = ...,
    minibatches: int = ...,
    advantage: Literal['return', 'leave_one_out', 'group_mean', 'group_std'] = ...,
    baseline: Literal['none', 'running', 'greedy'] = ...,
    whiten_advantages: bool = ...,
    ratio: Literal['token', 'sequence_mean', 'sequence_sum'] = ...,
    surrogate: Literal['score', 'clipped', 'weighted'] = ...,
    clip_low: float = ...,
    clip_high: float = ...,
    reduction: Literal['token_mean', 'sequence_mean', 'sequence_sum', 'fixed_length'] = ...,
    dynamic_sampling: int = ...,
    mask_truncated: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    kl: KLSettings | Any = ...,
    kl_weighted: bool = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """DAPO (arXiv:2503.14476): GRPO with a higher upper clip, mean over tokens, dynamic sampling, and no KL."""

def gspo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    epochs: int = ...,
    minibatches: int = ...,
    advantage: Literal['return', 'leave_one_out', 'group_mean', 'group_std'] = ...,
    baseline: Literal['none', 'running', 'greedy'] = ...,
    whiten_advantages: bool = ...,
    ratio: Literal['token', 'sequence_mean', 'sequence_sum'] = ...,
    surrogate: Literal['score', 'clipped', 'weighted'] = ...,
    clip_low: float = ...,
    clip_high: float = ...,
    reduction: Literal['token_mean', 'sequence_mean', 'sequence_sum', 'fixed_length'] = ...,
    dynamic_sampling: int = ...,
    mask_truncated: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    kl: KLSettings | Any = ...,
    kl_weighted: bool = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """GSPO (arXiv:2507.18071): GRPO with one ratio for the whole completion, clipped as one."""

def cispo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    epochs: int = ...,
    minibatches: int = ...,
    advantage: Literal['return', 'leave_one_out', 'group_mean', 'group_std'] = ...,
    baseline: Literal['none', 'running', 'greedy'] = ...,
    whiten_advantages: bool = ...,
    ratio: Literal['token', 'sequence_mean', 'sequence_sum'] = ...,
    surrogate: Literal['score', 'clipped', 'weighted'] = ...,
    clip_low: float = ...,
    clip_high: float = ...,
    reduction: Literal['token_mean', 'sequence_mean', 'sequence_sum', 'fixed_length'] = ...,
    dynamic_sampling: int = ...,
    mask_truncated: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    kl: KLSettings | Any = ...,
    kl_weighted: bool = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """CISPO (arXiv:2506.13585): the clipped ratio as a constant weight of -A log π, so that every token keeps its gradient."""

def rloo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    epochs: int = ...,
    minibatches: int = ...,
    advantage: Literal['return', 'leave_one_out', 'group_mean', 'group_std'] = ...,
    baseline: Literal['none', 'running', 'greedy'] = ...,
    whiten_advantages: bool = ...,
    ratio: Literal['token', 'sequence_mean', 'sequence_sum'] = ...,
    surrogate: Literal['score', 'clipped', 'weighted'] = ...,
    clip_low: float = ...,
    clip_high: float = ...,
    reduction: Literal['token_mean', 'sequence_mean', 'sequence_sum', 'fixed_length'] = ...,
    dynamic_sampling: int = ...,
    mask_truncated: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    kl: KLSettings | Any = ...,
    kl_weighted: bool = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """RLOO (arXiv:2402.14740): REINFORCE on whole completions, each against the mean of its prompt's others; KL in the reward."""

def reinforce(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    epochs: int = ...,
    minibatches: int = ...,
    advantage: Literal['return', 'leave_one_out', 'group_mean', 'group_std'] = ...,
    baseline: Literal['none', 'running', 'greedy'] = ...,
    whiten_advantages: bool = ...,
    ratio: Literal['token', 'sequence_mean', 'sequence_sum'] = ...,
    surrogate: Literal['score', 'clipped', 'weighted'] = ...,
    clip_low: float = ...,
    clip_high: float = ...,
    reduction: Literal['token_mean', 'sequence_mean', 'sequence_sum', 'fixed_length'] = ...,
    dynamic_sampling: int = ...,
    mask_truncated: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    kl: KLSettings | Any = ...,
    kl_weighted: bool = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """REINFORCE (Williams 1992) with return-to-go and a running baseline; KL in the reward."""

def reinforce_pp(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    epochs: int = ...,
    minibatches: int = ...,
    advantage: Literal['return', 'leave_one_out', 'group_mean', 'group_std'] = ...,
    baseline: Literal['none', 'running', 'greedy'] = ...,
    whiten_advantages: bool = ...,
    ratio: Literal['token', 'sequence_mean', 'sequence_sum'] = ...,
    surrogate: Literal['score', 'clipped', 'weighted'] = ...,
    clip_low: float = ...,
    clip_high: float = ...,
    reduction: Literal['token_mean', 'sequence_mean', 'sequence_sum', 'fixed_length'] = ...,
    dynamic_sampling: int = ...,
    mask_truncated: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    kl: KLSettings | Any = ...,
    kl_weighted: bool = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """REINFORCE++ (arXiv:2501.03262): return-to-go of token rewards with the KL in them, whitened over the whole batch, PPO's clip."""

def remax(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    environment: EnvironmentSettingsSettings | str | Callable[..., Any] | Any = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    epochs: int = ...,
    minibatches: int = ...,
    advantage: Literal['return', 'leave_one_out', 'group_mean', 'group_std'] = ...,
    baseline: Literal['none', 'running', 'greedy'] = ...,
    whiten_advantages: bool = ...,
    ratio: Literal['token', 'sequence_mean', 'sequence_sum'] = ...,
    surrogate: Literal['score', 'clipped', 'weighted'] = ...,
    clip_low: float = ...,
    clip_high: float = ...,
    reduction: Literal['token_mean', 'sequence_mean', 'sequence_sum', 'fixed_length'] = ...,
    dynamic_sampling: int = ...,
    mask_truncated: bool = ...,
    old_logprobs: Literal['auto', 'policy', 'sampler'] = ...,
    entropy_coef: float = ...,
    importance: ImportanceSettings | Any = ...,
    kl: KLSettings | Any = ...,
    kl_weighted: bool = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """ReMax (arXiv:2310.10505): REINFORCE with the score of the prompt's greedy completion as its baseline; KL in the reward."""

def online_dpo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    reference: Model = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    epochs: int = ...,
    minibatches: int = ...,
    beta: float = ...,
    label_smoothing: float = ...,
    xpo_alpha: float = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Online DPO (arXiv:2402.04792): the policy draws two completions, the scorer says which is better, DPO learns from the pair."""

def nash_md(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    preference: Scorer | Sequence[Scorer] = ...,
    sampling: SamplingSettings | Any = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    reference: Model = ...,
    mixture: float = ...,
    beta: float = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Nash mirror descent (arXiv:2312.00886): policy gradient on being preferred to a mixture of the policy and the reference."""

def sppo(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    preference: Scorer | Sequence[Scorer] = ...,
    sampling: SamplingSettings | Any = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    completions_per_prompt: int = ...,
    keep: Literal['all', 'extremes'] = ...,
    epochs: int = ...,
    minibatches: int = ...,
    eta: float = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Self-play preference optimisation (arXiv:2405.00675): rounds of regressing log-ratios to soft win rates among the policy's own samples."""

def expert(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    reward_model: Scorer | Sequence[Scorer] = ...,
    sampling: OnlineSamplingSettings | Any = ...,
    sampler: Callable[..., Any] | str = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    keep: Literal['best', 'above'] = ...,
    quantile: float = ...,
    epochs: int = ...,
    minibatches: int = ...,
    reward: ScoreShapingSettings | Scorer | Sequence[Scorer] | Any = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Expert iteration, or rejection-sampling fine-tuning (RAFT, arXiv:2304.06767): sample, keep the best, raise their likelihood, again."""

def ilql(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    batch_size: int = ...,
    epochs: float = ...,
    max_steps: int = ...,
    gamma: float = ...,
    tau: float = ...,
    cql_coef: float = ...,
    likelihood_coef: float = ...,
    advantage_weight: float = ...,
    target_rate: float = ...,
    target_every: int = ...,
    whiten_scores: bool = ...,
    eval_every: int = ...,
    optim: OptimSettings | Any = ...,
    heads_optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Implicit language Q-learning (arXiv:2206.11871): offline reinforcement learning from scored completions, with Q heads that steer decoding."""

def distill_context(
    *,
    run: RunSettingsSettings | Any = ...,
    data: Rows | DataSettings = ...,
    model: Model,
    context: str = ...,
    context_file: str = ...,
    teacher: Model = ...,
    sampled_by: Literal['teacher', 'policy'] = ...,
    divergence: Literal['forward', 'reverse'] = ...,
    sampling: SamplingSettings | Any = ...,
    steps: int = ...,
    batch_prompts: int = ...,
    completions_per_prompt: int = ...,
    eval_every: int = ...,
    optim: OptimSettings | Any = ...,
    lora: LoRASettings | int | Any = ...,
    compute: ComputeSettings | Any = ...,
    out: str | Path = ...,
    seed: int = ...,
    resume: bool = ...,
    store: str | Path | Store = ...,
    skip_bad: bool = ...,
    format: str = ...,
    columns: Sequence[str] = ...,
) -> PolicyRun:
    """Context distillation (arXiv:2112.00861): train a policy without a context to answer as it does with it."""
