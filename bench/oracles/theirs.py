"""The other side: `python theirs.py CASES`, in an environment that has TRL and rlax and nothing of prefloop.

Reads CASES/cases.json and CASES/numbers.safetensors, calls each package's own loss on those numbers, and writes values and gradients to
CASES/theirs.safetensors. A trainer's loss is a method that looks at its trainer and its model: both are stand-ins here that give the numbers read.
"""

import json
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace as Record

warnings.filterwarnings("ignore")

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import rlax  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RewardTrainer, RLOOTrainer  # noqa: E402
from trl.experimental.cpo import CPOTrainer  # noqa: E402
from trl.experimental.orpo import ORPOTrainer  # noqa: E402


def same(value, *_, **__):
    return value


ACCELERATOR = Record(
    device=torch.device("cpu"), gather_for_metrics=same, gather=same, reduce=same, num_processes=1
)


def trainer(**settings):
    """What the losses look up on their trainer."""
    common = {
        "accelerator": ACCELERATOR,
        "model": Record(training=True, is_gradient_checkpointing=False),
        "args": Record(gradient_checkpointing_kwargs=None, use_bias_correction_kl=False, delta=None),
        "aux_loss_enabled": False,
        "precompute_ref_logps": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    return Record(**(common | settings))


def side_by_side(values):
    """Chosen ones, then rejected ones; they come in turn."""
    return torch.cat([values[0::2], values[1::2]])


def outputs(logprobs, collision):
    """What a model with a fused head returns."""
    zeros = torch.zeros_like(logprobs)
    return Record(
        log_probs=logprobs,
        entropy=zeros,
        mean_logits=zeros,
        is_top1=zeros.bool(),
        log_sum_sq_probs=collision,
        is_gradient_checkpointing=False,
    )


def frozen(answer):
    """A model that is only called."""

    class Model:
        is_gradient_checkpointing = False
        training = True

        def __call__(self, **_):
            return answer

    return Model()


def with_first_column(mask):
    """A mask over tokens; the first one is predicted from nothing."""
    return torch.cat([torch.zeros_like(mask[:, :1]), mask], dim=1)


def dpo(n, loss_type, **settings):
    mask = side_by_side(n["mask"])
    logprobs = side_by_side(n["logprobs"].where(n["mask"].bool(), 0.0))
    reference = side_by_side(n["reference"].where(n["mask"].bool(), 0.0))
    settings = {
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 1.0,
        "ld_alpha": None,
        "use_weighting": False,
        "tau": 0.05,
    } | settings
    dtype = torch.float32 if settings["f_divergence_type"] == "alpha_divergence" else torch.float64
    collision = side_by_side(n["log_collision"]).to(dtype)
    self = trainer(
        loss_types=[loss_type],
        loss_weights=[1.0],
        ref_model=frozen(outputs(reference.to(dtype), collision)),
        **settings,
    )
    self.args.discopop_tau = settings["tau"]
    inputs = {
        "input_ids": torch.zeros_like(with_first_column(mask)),
        "attention_mask": torch.ones_like(with_first_column(mask)),
        "completion_mask": with_first_column(mask),
    }
    return DPOTrainer._compute_loss(self, frozen(outputs(logprobs.to(dtype), collision)), inputs, False)


def kto(n, beta, good_weight, bad_weight, loss_type="kto"):
    mask, kl = n["mask"], n["mismatched"]
    logprobs = n["logprobs"].where(mask.bool(), 0.0)
    policy, reference = logprobs, n["reference"].where(mask.bool(), 0.0)
    self = trainer(
        beta=beta,
        desirable_weight=good_weight,
        undesirable_weight=bad_weight,
        loss_type=loss_type,
        calculate_KL=loss_type == "kto",
        ref_model=frozen(outputs(reference, None)),
        _compute_kl_logps=lambda model, batch: kl[:, 1] if model is self.ref_model else kl[:, 0],
    )
    inputs = {
        "input_ids": torch.zeros_like(with_first_column(mask)),
        "attention_mask": torch.ones_like(with_first_column(mask)),
        "completion_mask": with_first_column(mask),
        "label": n["good"].bool(),
    }
    return KTOTrainer._compute_loss(self, frozen(outputs(policy, None)), inputs, False)


def summed(n, *, mean=False):
    kept = n["logprobs"].where(n["mask"].bool(), 0.0).sum(1)
    kept = kept / n["mask"].sum(1) if mean else kept
    return kept[0::2], kept[1::2]


def cpo(n, loss_type, beta, gamma=0.0):
    self = trainer(beta=beta, loss_type=loss_type, simpo_gamma=gamma, alpha=0.0, label_smoothing=0.0)
    return CPOTrainer.cpo_loss(self, *summed(n, mean=loss_type == "simpo"))[0].mean()


def orpo(n, beta):
    self = trainer(beta=beta)
    return -ORPOTrainer.odds_ratio_loss(self, *summed(n, mean=True))[0].mean()


def reward(n, margin, centring):
    self = trainer()
    self.args = Record(center_rewards_coefficient=centring)
    inputs = {"attention_mask": torch.ones(2, 2)} | ({"margin": n["margin"]} if margin else {})
    logits = torch.cat([n["logprobs"][0::2, 0], n["logprobs"][1::2, 0]])[:, None]
    return RewardTrainer.compute_loss(self, frozen(Record(logits=logits)), inputs)


def grpo(n, loss_type, low, high, level="token", beta=0.0, length=1):
    mask = n["mask"]
    self = trainer(
        loss_type=loss_type,
        epsilon_low=low,
        epsilon_high=high,
        importance_sampling_level=level,
        beta=beta,
        max_completion_length=length,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *_, **__: (n["logprobs"], torch.zeros_like(n["old"]), None),
    )
    self.args.steps_per_generation = 1
    inputs = {
        "prompt_ids": mask[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": n["advantages"],
        "old_per_token_logps": n["old"],
        "ref_per_token_logps": n["reference"],
        "num_items_in_batch": mask.sum(),
    }
    return GRPOTrainer._compute_loss(self, None, inputs)


def rloo(n, low, high):
    mask = n["mask"]
    self = trainer(
        epsilon_low=low,
        epsilon_high=high,
        _get_per_token_logps_and_entropies=lambda *_, **__: (n["logprobs"], torch.zeros_like(n["old"]), None),
    )
    inputs = {
        "prompt_ids": mask[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": n["advantages"],
        "old_logps": n["old"].where(mask.bool(), 0.0).sum(1),
    }
    return RLOOTrainer._compute_loss(self, None, inputs)


def of_jax(function, x):
    """Value and gradient of a JAX function, as a loss of torch's."""
    value, slope = jax.value_and_grad(function)(jnp.asarray(x.detach().numpy()))
    slope = torch.from_numpy(jax.device_get(slope).copy())
    return (x * slope).sum() + (float(value) - (x.detach() * slope).sum())


def surrogate(n, clip):
    """rlax's clipped surrogate over all tokens that count."""
    keep = n["mask"].bool().flatten().numpy()
    old, advantages = (
        jnp.asarray(x.flatten().numpy()[keep])
        for x in (n["old"], n["advantages"][:, None].expand_as(n["old"]))
    )

    def loss(logprobs):
        return rlax.clipped_surrogate_pg_loss(jnp.exp(logprobs.flatten()[keep] - old), advantages, clip)

    return of_jax(loss, n["logprobs"])


def gae(n, gamma, lam):
    """One row after another, each without its padding: [B, T] of estimates, padded with zeros."""
    found = torch.zeros_like(n["old"])
    for b, count in enumerate(n["mask"].sum(1).tolist()):
        rewards, values = (jnp.asarray(n[name][b, :count].numpy()) for name in ("reference", "old"))
        discounts = jnp.full(count, gamma)
        ends = jnp.concatenate([values, jnp.zeros(1)])
        row = rlax.truncated_generalized_advantage_estimation(rewards, discounts, lam, ends)
        found[b, :count] = torch.from_numpy(jax.device_get(row).copy())
    return found


def returns(n, gamma):
    found = torch.zeros_like(n["old"])
    for b, count in enumerate(n["mask"].sum(1).tolist()):
        rewards = jnp.asarray(n["reference"][b, :count].numpy())
        row = rlax.discounted_returns(rewards, jnp.full(count, gamma), 0.0)
        found[b, :count] = torch.from_numpy(jax.device_get(row).copy())
    return found


THEIRS = {each.__name__: each for each in (dpo, kto, cpo, orpo, reward, grpo, rloo, surrogate, gae, returns)}


def main(folder):
    numbers = load_file(folder / "numbers.safetensors")
    results = {}
    for case in json.loads((folder / "cases.json").read_text()):
        n = {key.split("/")[1]: v for key, v in numbers.items() if key.startswith(case["data"] + "/")}
        n["logprobs"] = n["logprobs"].clone().requires_grad_()
        value = THEIRS[case["theirs"]](n, **case["settings"])
        results[case["name"] + "/value"] = value.detach().double().contiguous()
        if value.requires_grad:
            value.sum().backward()
            results[case["name"] + "/gradient"] = n["logprobs"].grad.double()
    save_file(results, folder / "theirs.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
