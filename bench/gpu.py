"""One GPU: are its numbers those of the processor, and how fast are DPO, PPO and sampling on it. About ten minutes:

    python -m bench.gpu --size 0.5b
    python -m bench.gpu --size 1.5b --family qwen2

Models have random weights and the shapes of Qwen2 0.5B and 1.5B (or a Llama's block in those shapes), in bfloat16. Each case runs two ways in
turn: ours, and plain, which is transformers alone: every completion padded after its own copy of the prompt with the logits of every position,
and `generate`. With `--trl PYTHON`, of an environment that has TRL (`make bench` makes `.venv-trl/bin/python`), its DPO trainer takes turns too, on
the same model and comparisons, in bfloat16, with Liger's kernels where that environment has them. MFU is the share of `--peak` TFLOP/s that the real tokens' arithmetic needs, padding and recomputation not counted.
`--device cpu --size tiny` runs every part here in a minute, to see that it works.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from bench.versus.cases import PAIRS
from bench.versus.contender import ROOT, Contender
from bench.versus.material import write_rows
from prefloop.configs.common import Compute, Sampling
from prefloop.losses import clipped_surrogate, clipped_value_loss, dpo_loss, example_mean, sequence_sum
from prefloop.losses.reduce import sequence_mean_of_token_mean
from prefloop.models.load import as_policy, prepare, score_head
from prefloop.models.packing import Batch, pack
from prefloop.models.roles import Critic, Policy
from prefloop.rollout import sample
from prefloop.text.groups import Group

PEAK = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16 TFLOP/s by the makers' data sheets."""
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config}


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A model's shape and the work it gets."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    prompt: int
    """Longest prompt; the shortest has half as many tokens."""
    completion: int
    """Longest completion, likewise."""
    pairs: int
    """As many as the other side takes in a step."""
    sampled: int
    """Completions sampled together."""


SIZES = {
    "tiny": Size(
        hidden=64,
        layers=2,
        heads=4,
        kv_heads=2,
        ffn=128,
        vocabulary=512,
        prompt=12,
        completion=12,
        pairs=PAIRS,
        sampled=4,
    ),
    "0.5b": Size(
        hidden=896,
        layers=24,
        heads=14,
        kv_heads=2,
        ffn=4864,
        vocabulary=151936,
        prompt=256,
        completion=256,
        pairs=16,
        sampled=64,
    ),
    "1.5b": Size(
        hidden=1536,
        layers=28,
        heads=12,
        kv_heads=2,
        ffn=8960,
        vocabulary=151936,
        prompt=256,
        completion=256,
        pairs=16,
        sampled=64,
    ),
}


def config_of(size: Size, family: str) -> LlamaConfig | Qwen2Config:
    """A configuration of transformers."""
    return CONFIGS[family](
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def language_model(size: Size, family: str, dtype: torch.dtype) -> PreTrainedModel:
    """Random weights, the same at every call."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_of(size, family)).to(dtype)


def comparisons(size: Size) -> list[Group]:
    """Pairs of random tokens, lengths drawn between half of the longest and it."""
    generator = torch.Generator().manual_seed(1)

    def text(longest: int) -> list[int]:
        length = int(torch.randint(longest // 2, longest + 1, (), generator=generator))
        return torch.randint(3, size.vocabulary, (length,), generator=generator).tolist()

    groups: list[Group] = []
    for _ in range(size.pairs):
        completions = (text(size.completion), text(size.completion))
        masks = tuple([True] * len(completion) for completion in completions)
        groups.append(Group(prompt=text(size.prompt), completions=completions, masks=masks))
    return groups


def write_material(folder: Path, model: PreTrainedModel, groups: Sequence[Group]) -> None:
    """The model, a tokenizer that reads token i from the word `i`, and the comparisons as its text without their last tokens: TRL adds an end."""
    model.save_pretrained(folder / "policy")
    special = {0: "<pad>", 2: "</s>"}  # these are found inside words too, so no number may stand for them
    vocabulary = {special.get(i, str(i)): i for i in range(model.config.vocab_size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="3"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", pad_token="<pad>", model_max_length=2048
    ).save_pretrained(folder / "policy")

    def text(ids: Sequence[int]) -> str:
        return "".join(f" {i}" for i in ids)

    rows = [
        {"prompt": text(group.prompt), "chosen": text(chosen[:-1]), "rejected": text(rejected[:-1])}
        for group in groups
        for chosen, rejected in [group.completions]
    ]
    write_rows(folder / "comparisons.jsonl", rows)


@contextmanager
def trl_step(
    python: Path | None, model: PreTrainedModel, groups: Sequence[Group], device: str
) -> Iterator[dict[str, Callable[[], object]]]:
    """A step of TRL's DPO trainer in a process of its own; nothing where no Python is given."""
    if python is None:
        yield {}
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_material(folder, model, groups)
        longest = max(len(group.prompt) + max(map(len, group.completions)) for group in groups)
        command = [str(python), str(ROOT / "bench/versus/theirs.py"), "dpo", name]
        environment = {"DEVICE": device, "BF16": "1", "MAX_LENGTH": str(longest)}
        contender = Contender("TRL", command, environment, folder / "trl.log")
        yield {"TRL": contender.step}
        contender.close()


def forward_flops(size: Size, batch: Batch) -> float:
    """Of one forward pass over the row's real tokens, the head where something is predicted."""
    head_size = size.hidden // size.heads
    block = size.hidden * (2 * size.heads + 2 * size.kv_heads) * head_size + 3 * size.hidden * size.ffn
    seen = float((batch.position_ids + 1).sum())
    dense = 2 * (size.layers * block * batch.tokens + size.vocabulary * size.hidden * len(batch.targets))
    return dense + 4 * size.layers * size.heads * head_size * seen


def dpo_step(policy: Policy, reference: Policy, batch: Batch) -> Tensor:
    """The loss of one step, gradients added."""
    with torch.no_grad():
        theirs = sequence_sum(reference(batch), batch.completion_mask)
    ours = sequence_sum(policy(batch), batch.completion_mask)
    losses = dpo_loss(ours[0::2], ours[1::2], theirs[0::2], theirs[1::2], beta=0.1)
    loss = example_mean(losses, examples=len(losses))
    loss.backward()
    return loss.detach()


def ppo_step(policy: Policy, critic: Critic, batch: Batch) -> Tensor:
    """The loss of one update of policy and critic, gradients added; advantages and returns are those of a reward of 1."""
    mask, count = batch.completion_mask, len(batch.last)
    logprobs, values = policy(batch), critic(batch)
    old, ones = logprobs.detach(), torch.ones_like(logprobs)
    losses = clipped_surrogate(logprobs, old, ones, clip=0.2)
    losses = losses + 0.1 * clipped_value_loss(values, values.detach(), ones, clip=0.2)
    loss = sequence_mean_of_token_mean(losses, mask, sequences=count)
    loss.backward()
    return loss.detach()


def critic_of(size: Size, family: str, compute: Compute, dtype: torch.dtype) -> Critic:
    """A critic with a trunk of its own."""
    torch.manual_seed(1)
    config = config_of(size, family)
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config).to(dtype)
    model.score = model.score.float()
    way = prepare(model, compute)
    return Critic(model, score_head(model), way=way)


def check_equality(device: str, family: str) -> None:
    """Stop where the device's log-probabilities, gradients or tokens are not the processor's, in float32 on a small model."""
    size = SIZES["tiny"]
    groups, found = comparisons(size), []
    for place in ("cpu", device):
        model = language_model(size, family, torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)  # distributions that are far from uniform
        policy = as_policy(model, Compute(device=place))  # pyright: ignore[reportArgumentType]
        logprobs = policy(pack(groups, policy.device))
        logprobs.sum().backward()
        gradient = policy.model.get_input_embeddings().weight.grad  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(gradient, Tensor)
        drawn = sample(
            policy.model,
            [group.prompt for group in groups],
            k=2,
            stop_ids=(),
            sampling=Sampling(max_new_tokens=8),
            seed=0,
            row_keys=range(len(groups)),
        )
        tokens = [one.tokens for group in drawn for one in group]
        found.append((policy.way, logprobs.detach().cpu(), gradient.cpu(), tokens))
    (_, logprobs, gradient, tokens), (way, theirs, their_gradient, their_tokens) = found
    apart = float((logprobs - theirs).abs().max())
    gradients_apart = float((gradient - their_gradient).norm() / gradient.norm())
    same = sum(one == other for one, other in zip(tokens, their_tokens, strict=True))
    print(
        f"equality on {device} ({way}): log-probabilities differ by {apart:.1e}, gradients by {gradients_apart:.1e}; "
        f"{same} of {len(tokens)} completions are the same"
    )
    if apart > 1e-3 or gradients_apart > 1e-3 or same < len(tokens) - 1:
        raise SystemExit("the device's numbers are not the processor's: nothing was timed")


def in_turn(cases: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each case, run in turn after a first run that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def trained(parts: Sequence[torch.nn.Module], step: Callable[[], Tensor], device: str) -> Callable[[], None]:
    """The step with its optimiser."""
    parameters = [parameter for part in parts for parameter in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=device == "cuda")

    def run() -> None:
        step()
        optimizer.step()
        optimizer.zero_grad()

    return run


def report(name: str, seconds: dict[str, float], work: float, unit: str, flops: float, peak: float) -> None:
    """One line of the result."""
    ratios = ", ".join(
        f"{each / seconds['ours']:.2f}x {way}" for way, each in seconds.items() if way != "ours"
    )
    share = f", MFU {flops / seconds['ours'] / (peak * 1e12):.1%}" if flops else ""
    rates = ", ".join(f"{way} {work / each:,.0f} {unit}" for way, each in seconds.items())
    print(f"{name}: {rates}, {ratios}{share}")


def time_training(size: Size, family: str, device: str, repeats: int, peak: float, trl: Path | None) -> None:
    """DPO's step and PPO's update, packed and plain."""
    dtype = torch.bfloat16
    compute = Compute(device=device, dtype="bfloat16")  # pyright: ignore[reportArgumentType]
    policy = as_policy(language_model(size, family, dtype), compute)
    plain = Policy(policy.model, way="padded", linear_head=False)
    reference = policy.frozen_copy()
    plain_reference = Policy(reference.model, way="padded", linear_head=False)
    critic = critic_of(size, family, compute, dtype)
    plain_critic = Critic(critic.model, critic.value_head, way="padded")
    groups = comparisons(size)
    batch = pack(groups, policy.device)
    once = forward_flops(size, batch)
    steps = {
        "ours": trained([policy], lambda: dpo_step(policy, reference, batch), device),
        "plain": trained([policy], lambda: dpo_step(plain, plain_reference, batch), device),
    }
    with trl_step(trl, policy.model, groups, device) as theirs:
        seconds = in_turn({**steps, **theirs}, repeats, device)
    report("dpo", seconds, batch.tokens, "real tokens/s", 4 * once, peak)
    steps = {
        "ours": trained([policy, critic], lambda: ppo_step(policy, critic, batch), device),
        "plain": trained([policy, critic], lambda: ppo_step(plain, plain_critic, batch), device),
    }
    without_head = 2 * size.vocabulary * size.hidden * len(batch.targets)
    flops = 3 * (2 * once - without_head)
    report("ppo update", in_turn(steps, repeats, device), batch.tokens, "real tokens/s", flops, peak)


def time_generation(size: Size, family: str, device: str, repeats: int, peak: float) -> None:
    """Completions of full length, sampled at temperature 1."""
    policy = as_policy(language_model(size, family, torch.bfloat16), Compute(device=device, dtype="bfloat16"))  # pyright: ignore[reportArgumentType]
    model, new = policy.model, size.completion
    ids = torch.randint(3, size.vocabulary, (size.sampled, size.prompt), device=policy.device)
    prompts = ids.tolist()

    def ours() -> None:
        sampling = Sampling(max_new_tokens=new, batch_size=size.sampled)
        sample(model, prompts, k=1, stop_ids=(), sampling=sampling, seed=0, row_keys=range(len(prompts)))

    @torch.inference_mode()
    def plain() -> None:
        config = model.config
        attention, config._attn_implementation = config._attn_implementation, "sdpa"
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            pad_token_id=0,
        )  # pyright: ignore[reportCallIssue]
        config._attn_implementation = attention

    seconds = in_turn({"ours": ours, "plain": plain}, repeats, device)
    report("generation", seconds, size.sampled * new, "tokens/s", 0.0, peak)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 where there is no GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=SIZES, default="0.5b")
    parser.add_argument("--family", choices=CONFIGS, default="llama")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--peak", type=float, default=0.0, help="dense bfloat16 TFLOP/s; 0: by the GPU's name"
    )
    parser.add_argument("--trl", type=Path, help="a Python that has TRL, to measure its DPO trainer too")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured (`--device cpu --size tiny` tries every part)")
        return 1
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    peak = args.peak or next((rate for chip, rate in PEAK.items() if chip in name), 1.0)
    print(f"{name}, torch {torch.__version__}, {args.family} {args.size}, peak {peak:g} TFLOP/s")
    check_equality(args.device, args.family)
    work = SIZES[args.size], args.family, args.device, args.repeats, peak
    time_training(*work, args.trl)
    time_generation(*work)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
