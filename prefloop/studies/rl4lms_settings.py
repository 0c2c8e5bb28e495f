"""Settings of the study `rl4lms`."""

from dataclasses import dataclass

from prefloop.studies.films import FilmSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class RL4LMsSettings(FilmSettings):
    """Settings of the study `rl4lms`."""

    demonstrations: int = 800
    """People's continuations in positive reviews, for the supervised policy."""
    methods: tuple[str, ...] = ("ppo", "nlpo", "a2c", "trpo")
    """ppo, nlpo, a2c and trpo."""
    steps: int = 20
    """Of every method that samples; a step of TRPO costs four of the others, so it takes a quarter of them."""
    batch: int = 48
    """Completions of a step."""
    kl: float = 0.1
    """Weight of the KL to the model that a method starts from; the reward is in nats too, the judge's log-odds."""
    labels: tuple[int, ...] = (100, 800)
    """Demonstrations, or comparisons for a reward model, that have the same price."""
    temperature: float = 0.5
    """Of the annotator who compares, as a multiple of the judge's log-odds."""
    counted: int = 2500
    """Words, of all completions together, in which n-grams are counted."""
    words: int = 500
    """Of the sentences that are put in order: the commonest."""
    ordering_width: int = 64
    ordering_layers: int = 2
    ordering_epochs: float = 6.0
    """Of the supervised encoder-decoder; a third more in the cell that only goes on with them."""
    ordering_steps: int = 30
    """Of the methods that start from it."""
    ordered: int = 400
    """Held-out sentences."""
