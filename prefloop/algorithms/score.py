"""Scores of stored completions by reward models, log-ratios or functions, written down for `prefloop label select`, which needs no torch then.

Scores are as each scorer gives them, not normalised: of a Bradley-Terry reward model and of DPO's log-ratio times β, the sigmoid of a difference is
the probability that one is preferred.
"""

from prefloop.addresses import without_passwords
from prefloop.configs.scorers import Combining
from prefloop.configs.select import ScoreConfig
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.feedback.select.scores import write_scores
from prefloop.feedback.select.stored import text_sha256
from prefloop.loop.scoring import bring_scorers
from prefloop.records import Prompt
from prefloop.rollout.reward_scorers import EndedCompletions, EnsembleScorer
from prefloop.runtime import start_world


def score_completions(config: ScoreConfig) -> str:
    """Score every different completion of the store, and say how many; the store's name."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)

    def read() -> dict[Prompt, list[str]]:
        texts: dict[Prompt, dict[str, None]] = {}
        with Store.open(config.store, create=False) as store:
            checkpoints = [store.find_checkpoint(name) for name in config.checkpoints]
            for one in store.completions(checkpoints):
                texts.setdefault(one.prompt, {})[one.text] = None
        return {prompt: list(given) for prompt, given in texts.items()}

    groups = world.on_main(read)
    if not groups:
        raise InputError(
            f"{without_passwords(config.store)}: holds no completion to score; draw some with `prefloop sample`"
        )
    bring_scorers(world, config.reward_model)
    scorer = EnsembleScorer.load(
        config.reward_model, config.compute, world, rules=Combining(beta=config.beta), normalise=False
    )
    asked = EndedCompletions(prompts=list(groups), texts=list(groups.values()))
    members = [part.score(asked, tokens=scorer.tokens, world=world).tolist() for part in scorer.parts]
    keys = [(prompt.sha256, text_sha256(text)) for prompt, texts in groups.items() for text in texts]

    def write() -> None:
        count = write_scores(config.out, zip(keys, zip(*members, strict=True), strict=True))
        print(f"{config.out}: {count} completions of {len(groups)} prompts, {len(members)} scores each")

    world.on_main(write)
    return config.store
