"""Completions of a policy into the store, with all that is needed to judge them, to weigh them, and to draw them again.

What is drawn for a prompt depends on the weights, the seed, the sampling settings and the prompt itself: not on which other prompts there are,
their order, the number of processes, or where an earlier run stopped. So the same command twice adds nothing, and goes on after an
interruption with what is missing.
"""

import hashlib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from prefloop.addresses import without_passwords
from prefloop.configs.common import Sampling
from prefloop.configs.copies import here
from prefloop.configs.sample import SampleConfig
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.loop.inputs import Prompts, prompts
from prefloop.loop.provenance import name_in_store, same_models
from prefloop.loop.reading import Read
from prefloop.loop.roles import check_prompt_room
from prefloop.models.generation import say_what_is_not_taken
from prefloop.models.load import load_policy
from prefloop.models.q_heads import FOLDER, load_q_heads
from prefloop.models.roles import Policy, vocabulary_size
from prefloop.models.weights import weights_sha256
from prefloop.records import Completion, Prompt
from prefloop.rollout import make_rollout, sample
from prefloop.rollout.steered import Drawer, Perturbed
from prefloop.runtime.interrupt import Interrupted
from prefloop.runtime.progress import Progress
from prefloop.runtime.world import World, start_world
from prefloop.text import check_vocabulary, decode_completion, load_tokenizer, stop_token_ids

ROUNDS = 8
"""Decoding batches between two writes to the store: what an interruption can lose, and enough to keep a batch full."""


def sample_completions(config: SampleConfig) -> str:
    """Draw what the store does not have yet, write it as it comes, and print a summary; the store's name."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    same_models(world, config.model)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    chosen, read = world.on_main(lambda: _prompts(config, tokenizer))
    policy = load_policy(config.model, config.compute)
    if world.is_main:
        say_what_is_not_taken(policy.model, config.sampling)
    check_vocabulary(tokenizer, vocabulary_size(policy))
    check_prompt_room(policy, chosen, new_tokens=config.sampling.max_new_tokens)
    drawer, identify = _drawer(policy, config.model, ilql_beta=config.ilql_beta)
    name, checkpoint = world.on_main(lambda: _add_checkpoint(config.store, config.model, identify))
    missing = world.on_main(lambda: _missing(config, checkpoint, chosen))
    k, size = config.completions_per_prompt, max(1, ROUNDS * config.sampling.batch_size * world.size)
    per_write = max(world.size, size // k)
    progress = Progress(
        stage="sample",
        start=(len(chosen) - len(missing)) * k,
        total=len(chosen) * k,
        headline=("tokens", "ended"),
        shown=world.is_main,
        unit="completion",
    )
    progress.write(read.summary)
    progress.begin()
    written: list[Completion] = []
    try:
        for start in range(0, len(missing), per_write):
            places = missing[start : start + per_write]
            drawn = _draw(config, drawer, tokenizer, name, chosen, world.share(places), world, progress)
            shares = world.gather_objects(drawn)
            # Dealt out in turn, so taken back in turn: the store's order is that of the prompts.
            new = [one for i in range(len(places)) for one in shares[i % world.size][i // world.size]]
            world.on_main(lambda new=new: _write(config.store, new, checkpoint))
            written += new
            progress.numbers(_means(written))
    except KeyboardInterrupt:
        done = (len(chosen) - len(missing)) * k + len(written)
        raise Interrupted(
            f"{done} of {len(chosen) * k} completions are in {without_passwords(config.store)}; run the same command to continue"
        ) from None
    finally:
        progress.close()
    if world.is_main:
        print(_summary(config, name, len(chosen), len(missing), written))
    return config.store


Identify = Callable[[str, str], tuple[str, str]]
"""A model's name and the hash of its weights -> those of the policy that is drawn from."""


def _drawer(policy: Policy, model: str, *, ilql_beta: float) -> tuple[Drawer, Identify]:
    """What is drawn from: the policy, or the policy steered by its heads, which is another one for each beta."""
    if not ilql_beta:
        return policy, lambda name, weights: (name, weights)

    def steered(name: str, weights: str) -> tuple[str, str]:
        of_heads = weights_sha256(str(Path(model) / FOLDER))
        digest = hashlib.sha256(f"{weights} {of_heads} {ilql_beta!r}".encode())
        return f"{name} (ilql_beta {ilql_beta:g})", digest.hexdigest()

    heads = load_q_heads(Path(here(model)), policy.device)
    return Perturbed(policy=policy, heads=heads, beta=ilql_beta), steered


def _prompts(config: SampleConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[Prompts, Read]:
    """The prompts of the part that is asked for."""
    train, heldout, read = prompts(config.data, tokenizer, config.store)
    parts = {"train": (train,), "heldout": (heldout,), "all": (train, heldout)}[config.part]
    chosen = Prompts(
        records=tuple(prompt for part in parts for prompt in part.records),
        ids=[ids for part in parts for ids in part.ids],
        origins=tuple(origin for part in parts for origin in part.origins),
    )
    if not len(chosen):
        raise InputError(
            f"{config.data.source}: no prompt in part {config.part!r} (heldout {config.data.heldout}); give more prompts, or part all"
        )
    return chosen, read


def _add_checkpoint(at: str, model: str, identify: Identify) -> tuple[str, int]:
    """The policy's name and id in the store."""
    with Store.open(at) as store:
        name, weights = identify(name_in_store(model, store), weights_sha256(model))
        return name, store.add_checkpoint(name, kind="policy", weights_sha256=weights)


def _missing(config: SampleConfig, checkpoint: int, chosen: Prompts) -> list[int]:
    """Places of the prompts that the store does not have all K completions of, as this command would draw them."""
    sampling = config.sampling
    drawn = (config.seed, sampling.temperature, sampling.top_p, sampling.top_k)
    found: dict[str, set[int]] = {}
    with Store.open(config.store) as store:
        for one in store.completions([checkpoint]):
            if (one.seed, one.temperature, one.top_p, one.top_k) == drawn and _within(one, sampling):
                found.setdefault(one.prompt.sha256, set()).add(one.index)
    wanted = set(range(config.completions_per_prompt))
    return [i for i, prompt in enumerate(chosen.records) if not wanted <= found.get(prompt.sha256, set())]


def _within(completion: Completion, sampling: Sampling) -> bool:
    """Whether a completion is what this limit of tokens gives; the store does not keep the limit it was drawn under."""
    limit = sampling.max_new_tokens
    return completion.tokens <= limit if completion.ended else completion.tokens == limit


def _draw(
    config: SampleConfig,
    drawer: Drawer,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    chosen: Prompts,
    places: Sequence[int],
    world: World,
    progress: Progress,
) -> list[list[Completion]]:
    """This process's share of a round, K completions a prompt."""
    records, ids = [chosen.records[i] for i in places], [chosen.ids[i] for i in places]
    with drawer.active() as model:
        samples = sample(
            model,
            ids,
            k=config.completions_per_prompt,
            stop_ids=stop_token_ids(tokenizer),
            sampling=config.sampling,
            seed=config.seed,
            row_keys=[_key(prompt) for prompt in records],
            progress=progress.follow(processes=world.size),
        )
    rollout = make_rollout(records, ids, samples, lambda tokens: decode_completion(tokenizer, tokens))
    completions = iter(rollout.completions(policy=name, sampling=config.sampling, seed=config.seed))
    return [list(islice(completions, config.completions_per_prompt)) for _ in records]


def _key(prompt: Prompt) -> int:
    """The prompt's name among the random numbers: its content, so that its place in a file does not matter."""
    return int(prompt.sha256[:16], 16)


def _write(store: str, completions: Sequence[Completion], checkpoint: int) -> None:
    with Store.open(store) as opened:
        opened.add_completions(completions, checkpoint)


def _means(completions: Sequence[Completion]) -> dict[str, float]:
    """Mean tokens, and the share that ended by itself."""
    return {
        "tokens": sum(one.tokens for one in completions) / len(completions),
        "ended": sum(one.ended for one in completions) / len(completions),
    }


def _summary(
    config: SampleConfig, name: str, prompts: int, missing: int, written: Sequence[Completion]
) -> str:
    sampling, k = config.sampling, config.completions_per_prompt
    lines = [
        f"{without_passwords(config.store)}: {k} completions of each of {prompts} prompts by {name}; "
        f"{len(written)} drawn now, {(prompts - missing) * k} were there before"
    ]
    if written:
        means = _means(written)
        lines.append(
            f"  {means['tokens']:.1f} tokens on average, {means['ended']:.1%} ended by themselves "
            f"(temperature {sampling.temperature}, at most {sampling.max_new_tokens} tokens, seed {config.seed})"
        )
    return "\n".join(lines)
