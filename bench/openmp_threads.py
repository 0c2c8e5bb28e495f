"""How many small matrix products a second one process makes, for the number of threads that OMP_NUM_THREADS asks for. Four seconds:

    for n in 1 2 1 2; do OMP_NUM_THREADS=$n python -m bench.openmp_threads; done

Where other processes keep the cores busy, threads wait for each other by spinning; see docs/experiments.md.
"""

import time

import torch

SECONDS = 4.0


def products_a_second() -> float:
    """`[64, 512] @ [512, 512]` and a tanh, over and over."""
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(rows, 512, generator=generator) for rows in (64, 512))
    for _ in range(5):
        torch.tanh(inputs @ weight)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < SECONDS:
        torch.tanh(inputs @ weight)
        count += 1
    return count / (time.monotonic() - began)


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads: {products_a_second():.0f} products a second")
