"""An annotator without labels: it prefers what a strong model finds likelier than a weak one does. A utility of your own is written so;
for this one there is a command, `prefloop label annotate --reward_model STRONG@WEAK`.

cd examples && prefloop label simulate --store runs/first/prefloop.db --utility density_ratio:utility
"""

from functools import cache

from prefloop.configs.common import Compute
from prefloop.records import Prompt
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import start_world

STRONG, WEAK = "runs/strong/final", "runs/weak/final"


@cache
def scorer() -> EnsembleScorer:
    """Both models, loaded when the first pair is judged."""
    return EnsembleScorer.load(f"{STRONG}@{WEAK}", Compute(), start_world())


def utility(prompt: Prompt, completion: str) -> float:
    """log π_strong - log π_weak of the completion."""
    return scorer()([prompt], [completion])[0]
