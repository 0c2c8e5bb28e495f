"""The first steps of every stage on the small project, number by number, as they were when the formulas were checked by hand and against
float64 references (`tests/losses`, `tests/models`). A change of formula, data order, seed or default shows here.

If a change is meant, print the new numbers with `python -m tests.algorithms.test_golden FOLDER` and say in the change log why they moved.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.algorithms.small import close, make_project, metrics_of, settings, train

TOLERANCE = 1e-4
GOLDEN: dict[str, dict[str, list[float]]] = {
    "pretrain": {
        "loss": [5.67287, 5.69849, 5.64135, 5.61935],
        "grad_norm": [1.16108, 1.0505, 1.93963, 1.13471],
    },
    "sft": {
        "loss": [7.9219, 5.92555, 5.63182, 5.54164],
        "grad_norm": [6.94603, 7.01582, 20.24473, 13.0461],
    },
    "reward": {
        "loss": [1.39535, 1.02535, 1.14643, 0.74984],
        "margin": [-0.09351, -0.03148, 0.05923, 0.11678],
        "score": [-0.67933, -0.57701, -0.33363, -0.0587],
        "grad_norm": [3.60953, 3.24649, 1.75657, 1.07556],
    },
    "dpo": {
        "loss": [2.10768, 1.94265, 1.6834, 1.5783],
        "margin": [0.0, 0.1285, 0.43482, 1.02191],
        "logp_chosen": [-44.79358, -30.29917, -23.79262, -52.59127],
        "nll": [7.07267, 6.49268, 5.4906, 5.84347],
        "grad_norm": [7.23454, 6.38091, 6.40048, 4.26779],
    },
    "ppo": {
        "score": [-0.172, 0.07404, -0.20156, 0.21857],
        "reward": [-3.04404, -0.11652, -1.92043, 0.18414],
        "kl": [0.0, 0.0, -0.29245, 2.18571],
        "kl_coef": [0.2, 0.188, 0.17672, 0.17319],
        "entropy": [5.03638, 5.09532, 5.32454, 4.64748],
        "policy_loss": [math.nan, -0.02235, -0.00956, 0.00495],
        "value_loss": [6.24778, 9.50251, 2.20861, 9.27452],
        "explained_variance": [-20.31552, -2.59195, -31.85761, -2.31763],
        "approx_kl": [math.nan, 0.00128, 0.0015, 0.02694],
        "loss": [math.nan, 1.91158, 1.5288, 1.25704],
        "grad_norm": [math.nan, 3.64579, 5.79966, 2.71059],
        "grad_norm/critic": [49.00422, 29.13733, 23.12803, 21.7962],
    },
    "ppo_shared": {
        "score": [-0.33333, -0.18333, -0.35, -0.58333],
        "reward": [-0.33333, -0.18333, -0.35, -0.58333],
        "kl": [0.0, 0.01423, 0.02038, 0.08329],
        "entropy": [5.03638, 5.03842, 5.09177, 5.27024],
        "policy_loss": [-0.01225, -0.02075, -0.01173, -0.00895],
        "value_loss": [0.22914, 0.12297, 0.10187, 0.10452],
        "explained_variance": [0.0, 0.15747, 0.46562, -0.04623],
        "approx_kl": [0.00053, 0.00216, 0.00016, 0.00014],
        "grad_norm": [1.07634, 1.27776, 1.75321, 1.40181],
        "loss": [2e-05, -0.21278, -0.00103, -0.38606],
    },
    "ppo_policy_critic": {
        "score": [-0.33333, -0.18333, -0.75, -0.13333],
        "reward": [-0.33333, -0.18333, -0.75, -0.13333],
        "kl": [5.51392, 7.21319, 1.69024, 5.66965],
        "entropy": [5.03638, 5.04288, 5.35259, 5.18217],
        "policy_loss": [-0.01195, -0.0208, -0.01181, -0.00795],
        "value_loss": [0.22815, 0.11721, 0.12064, 0.18089],
        "explained_variance": [0.0, 0.1709, -4.9219, 0.0982],
        "approx_kl": [0.00045, 0.00177, 0.00018, 0.00014],
        "grad_norm": [0.94895, 1.14169, 1.56106, 1.29734],
        "grad_norm/critic": [2.38051, 1.20699, 1.34159, 2.32958],
    },
    "ppo_lora": {
        "score": [-0.47662, -0.4026, -0.42635, -0.41833],
        "reward": [-2.83625, -1.98347, -2.25749, -2.16805],
        "kl": [0.0, 0.00198, 0.00605, 0.04025],
        "entropy": [5.03638, 5.24108, 5.12155, 5.16796],
        "policy_loss": [-0.0047, -0.01712, -0.00164, -0.00464],
        "value_loss": [19.22833, 36.91365, 8.24205, 32.15371],
        "explained_variance": [-2.83956, -20.98846, -7.53024, -24.05502],
        "approx_kl": [4e-05, 0.00056, 1e-05, 0.0001],
        "grad_norm": [0.6102, 0.78535, 0.58031, 0.57191],
        "kl_coef": [0.1, 0.094, 0.08836, 0.08659],
        "grad_norm/critic": [52.00266, 62.28844, 57.91506, 77.96644],
    },
}


@pytest.mark.parametrize("name", GOLDEN)
def test_first_steps(name: str, unbroken: Callable[[str], Path]) -> None:  # N5 N7 K15
    rows = metrics_of(unbroken(name))
    observed = {metric: values_of(rows, metric) for metric in GOLDEN[name]}
    wrong = {
        metric: (observed[metric], expected)
        for metric, expected in GOLDEN[name].items()
        if not all(close(a, b, TOLERANCE) for a, b in zip(observed[metric], expected, strict=True))
    }
    assert not wrong


def values_of(rows: list[dict[str, float]], metric: str) -> list[float]:
    """A metric in the first four steps; NaN where a step has not logged it, as the policy's while only the critic learns."""
    return [round(row.get(metric, math.nan), 5) for row in rows[:4]]


if __name__ == "__main__":
    torch.set_num_threads(1)
    project = make_project(Path(sys.argv[1]))
    for stage, metrics in GOLDEN.items():
        train(settings(stage, project, out=stage))
        rows = metrics_of(project / stage)
        print(stage, {metric: values_of(rows, metric) for metric in metrics})
