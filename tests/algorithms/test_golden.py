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
        "loss": [3.97528, 3.83652, 3.38967, 3.54438],
        "grad_norm": [2.5296, 2.69678, 2.29028, 2.17887],
    },
    "reward": {
        "loss": [1.26186, 0.98241, 1.12974, 0.76521],
        "margin": [-0.16162, -0.15644, 0.03764, 0.08135],
        "score": [0.01336, 0.03717, 0.20093, 0.07125],
        "grad_norm": [1.91295, 2.07141, 1.334, 0.88765],
    },
    "dpo": {
        "loss": [1.66638, 1.59365, 1.33811, 1.47546],
        "margin": [0.0, -0.01016, 0.19991, 0.71523],
        "logp_chosen": [-30.81919, -20.91222, -15.58568, -45.25985],
        "nll": [4.86619, 4.48119, 3.59669, 5.02887],
        "grad_norm": [18.43758, 5.26469, 6.24312, 6.25107],
    },
    "ppo": {
        "score": [0.0475, -0.11035, -0.12058, -0.01386],
        "reward": [0.81572, -0.05904, -0.03169, 0.25578],
        "kl": [0.0, 0.0, 0.06578, 0.29214],
        "kl_coef": [0.2, 0.188, 0.17672, 0.18025],
        "entropy": [4.45455, 4.19344, 4.15785, 4.96741],
        "policy_loss": [math.nan, -0.02243, -0.03381, -0.03161],
        "value_loss": [1.432, 2.10078, 2.47924, 0.74414],
        "explained_variance": [-0.24009, 0.12495, -0.65397, 0.32065],
        "approx_kl": [math.nan, 0.00168, 0.00159, 0.00751],
        "loss": [math.nan, 0.9201, 1.08801, 1.11834],
        "grad_norm": [math.nan, 1.99405, 3.72917, 2.86912],
        "grad_norm/critic": [20.45375, 8.92305, 23.14652, 6.42483],
    },
    "ppo_shared": {
        "score": [0.18333, 0.51667, 0.2, 0.73333],
        "reward": [0.18333, 0.51667, 0.2, 0.73333],
        "kl": [0.0, 0.01613, 0.0627, 0.10786],
        "entropy": [3.89171, 4.21355, 4.27695, 4.1935],
        "policy_loss": [-0.01312, -0.02619, -0.01399, -0.00502],
        "value_loss": [0.16886, 0.18537, 0.08083, 0.50197],
        "explained_variance": [0.0, 0.00681, -0.08113, -0.04981],
        "approx_kl": [0.00046, 0.00308, 0.00039, 0.00016],
        "grad_norm": [1.40458, 1.39547, 2.43393, 2.13277],
        "loss": [0.12554, -0.07602, -0.00401, 0.04759],
    },
    "ppo_policy_critic": {
        "score": [0.18333, 0.2, 0.4, 0.06667],
        "reward": [0.18333, 0.2, 0.4, 0.06667],
        "kl": [14.76162, 14.49658, 12.72886, 10.44205],
        "entropy": [4.45455, 4.30964, 4.72745, 4.15888],
        "policy_loss": [-0.01142, -0.01517, -0.01037, -0.0095],
        "value_loss": [0.16835, 0.05476, 0.52094, 0.16237],
        "explained_variance": [0.0, 0.01154, -0.01213, -0.11916],
        "approx_kl": [0.00122, 0.00261, 0.00032, 0.00058],
        "grad_norm": [1.37999, 1.46003, 2.70028, 2.77465],
        "grad_norm/critic": [1.36876, 1.08624, 0.91342, 1.52648],
    },
    "ppo_lora": {
        "score": [0.04237, -0.01304, -0.05104, -0.07096],
        "reward": [0.66738, 0.41594, 0.2428, 0.15171],
        "kl": [0.0, 0.00156, 0.01076, 0.0198],
        "entropy": [4.45455, 4.4902, 4.41255, 4.89413],
        "policy_loss": [-0.00272, -0.00496, -0.00251, -0.00223],
        "value_loss": [0.22871, 1.05152, 0.37761, 0.34384],
        "explained_variance": [-1.39267, -1.16194, -0.93373, 0.53503],
        "approx_kl": [3e-05, 0.00015, 1e-05, 5e-05],
        "grad_norm": [0.45805, 0.76229, 1.1815, 0.55272],
        "kl_coef": [0.1, 0.094, 0.08836, 0.08659],
        "grad_norm/critic": [5.14272, 8.91312, 7.87355, 4.64881],
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
