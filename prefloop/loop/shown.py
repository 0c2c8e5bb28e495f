"""The samples that a stage writes while it runs: its rollouts, completions of held-out prompts, or scores of held-out completions, in `samples/step-N.jsonl`.

Samples use their own random numbers, so writing them changes nothing in a run.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import Sampling
from prefloop.models.encoder_decoder import positions_before
from prefloop.models.packing import pack
from prefloop.models.roles import Policy, RewardModel
from prefloop.rollout import Rollout
from prefloop.rollout.families import text_config
from prefloop.rollout.sampler import sample
from prefloop.runtime import Run
from prefloop.runtime.pace import in_step
from prefloop.text import decode_completion, stop_token_ids
from prefloop.text.groups import Group

SHOWN = 8
SHOWN_TOKENS = 64
ROLLOUTS_EVERY = 10
"""Steps between files of rollouts."""


def shows_rollouts(run: Run, step: int) -> bool:
    """Whether this is a step whose rollout is written."""
    return step == 1 or step % ROLLOUTS_EVERY == 0 or step == run.total_steps


def show_rollout(run: Run, step: int, rollout: Rollout, scores: Float[Tensor, " B"]) -> None:
    """Write some of a step's completions with their scores, where it is a step that shows any."""
    if not shows_rollouts(run, step):
        return
    asked, texts = rollout.pairs()
    rows = list(zip(asked, texts, scores.tolist(), strict=True))[:SHOWN]
    run.samples(
        step,
        [
            {"prompt": prompt.to_json(), "completion": text, "score": round(score, 4)}
            for prompt, text, score in rows
        ],
    )


def show_completions(
    run: Run,
    step: int,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    *,
    beside: str,
) -> None:
    """Write what the policy says, at temperature 1, to the first prompts of `groups` that leave it room; the group's own completion stands under `beside`."""
    limit = getattr(text_config(policy.model), "max_position_embeddings", None)
    room = limit if limit is not None else 1 << 30
    shown = [group for group in groups if len(group.prompt) < room][:SHOWN]
    if not shown:
        return
    prompts = [group.prompt for group in shown]
    before = positions_before(text_config(policy.model), max(map(len, prompts)))
    tokens = min(SHOWN_TOKENS, room - before)
    with policy.active() as model:
        if not run.world.is_main:
            return
        drawn = sample(
            model,
            prompts,
            k=1,
            stop_ids=stop_token_ids(tokenizer),
            sampling=Sampling(max_new_tokens=tokens, batch_size=SHOWN),
            seed=run.settings.seed,
            row_keys=range(len(prompts)),
        )
    run.samples(
        step,
        [
            {
                "prompt": tokenizer.decode(list(group.prompt)),
                "completion": decode_completion(tokenizer, completion.tokens),
                "ended": completion.ended,
                beside: decode_completion(tokenizer, group.completions[0]),
            }
            for group, [completion] in zip(shown, drawn, strict=True)
        ],
    )


def show_scores(
    run: Run,
    step: int,
    reward_model: RewardModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
) -> None:
    """Write the completions of the first groups with their scores, in the data's order: of comparisons the chosen one first."""
    shown, found = groups[:SHOWN], list[float]()
    with torch.no_grad():
        for batch in in_step([pack(shown, device=run.world.device)] if run.world.is_main and shown else []):
            found = reward_model(batch).tolist()
    if not (run.world.is_main and shown):
        return
    scores = iter(found)
    run.samples(
        step,
        [
            {
                "prompt": tokenizer.decode(list(group.prompt)),
                "completions": [
                    {"text": decode_completion(tokenizer, ids), "score": round(next(scores), 4)}
                    for ids in group.completions
                ],
            }
            for group in shown
        ],
    )
