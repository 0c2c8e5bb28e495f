"""Settings of `prefloop merge`."""

import math
from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, require, require_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeConfig:
    """Merge the changes of several trainings of one base model: SFT and preferences trained separately (PAFT, arXiv:2406.17923)."""

    base: str
    """Model that all of them were trained from: a hub name or a folder."""
    models: tuple[str, ...]
    """Folders of the trained models, adapters merged in as every stage saves them."""
    out: str
    """Folder of the merged model; it must be new or empty."""
    method: Literal["ties", "sum"] = "ties"
    """`ties` (arXiv:2306.01708) averages, for every weight, the changes that have the sign of their weighted sum; `sum` adds all of them."""
    densities: tuple[float, ...] = ()
    """Share of each model's changes to keep, the largest ones of every tensor, one number per model; none keeps all."""
    weights: tuple[float, ...] = ()
    """Weight of each model's changes, one number per model; none weights all with 1."""
    scale: float = 1.0
    """The merged change is multiplied by this."""
    store: str = ""
    """Store to write the lineage to; empty uses `prefloop.db` beside `out`."""
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require_whole(self.compute, "merging adds weights up")
        count = len(self.models)
        require(bool(self.base), "base is empty; name the model that the others were trained from")
        require(bool(self.out), "out is empty; name a folder for the merged model")
        require(count >= 2, f"models names {count}; name two or more")
        for name in ("densities", "weights"):
            given = getattr(self, name)
            require(
                len(given) in (0, count),
                f"{name} has {len(given)} numbers for {count} models; give one for each, or none",
            )
        for density in self.densities:
            require(0 < density <= 1, f"densities has {density}; it must be a share, above 0 and at most 1")
        for weight in self.weights:
            require(math.isfinite(weight) and weight > 0, f"weights has {weight}; it must be above 0")
        require(math.isfinite(self.scale) and self.scale > 0, f"scale is {self.scale}; it must be above 0")
