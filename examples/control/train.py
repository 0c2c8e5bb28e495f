"""PPO, A2C, TRPO and REINFORCE on CartPole and Acrobot: the loss and estimator functions of `prefloop.losses` around a small network.

    pip install 'prefloop[control]'
    python -m examples.control.train --task cartpole --method ppo --seeds 0 1 2

What is tested here is that the functions are right for tasks with rewards on the way, discounts, and episodes that a time limit cuts. An
episode, or what a batch holds of it, is a row of a right-padded `[B, T]`, as a completion is. Where it was cut and not ended, the value of
the next state is added, discounted, to the last reward: generalised advantages and returns are then those of bootstrapping.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from prefloop.losses import conjugate_gradient, probability_ratio, search_back, trust_region_step
from prefloop.studies.actor_critic import (
    Collector,
    ControlModel,
    PlayedSteps,
    Settings,
    clipped_updates,
    judge,
    mean,
)

TASKS = {"cartpole": "CartPole-v1", "acrobot": "Acrobot-v1"}
EVALUATION_EPISODES = 100


SETTINGS = {
    ("cartpole", "ppo"): Settings(),
    ("cartpole", "a2c"): Settings(
        steps=500_000, batch=5, gamma=0.99, lam=1.0, lr=7e-4, epochs=1, minibatch=1 << 30, whiten=False
    ),
    ("cartpole", "trpo"): Settings(
        steps=100_000, environments=2, batch=512, gamma=0.99, lam=0.98, minibatch=128
    ),
    ("cartpole", "reinforce"): Settings(
        steps=500_000, batch=0, gamma=0.99, lr=5e-3, epochs=1, minibatch=1 << 30
    ),
    ("acrobot", "ppo"): Settings(
        steps=500_000,
        environments=16,
        batch=256,
        gamma=0.99,
        lam=0.94,
        epochs=4,
        normalise=True,
        reward_scale=0.05,
    ),
}


def trust_region_update(
    model: ControlModel, steps: PlayedSteps, optimizer: torch.optim.Optimizer, settings: Settings
) -> tuple[float, float]:
    """TRPO's step of the actor, then epochs of the critic; the KL reached and the gain, both 0 where no step was accepted."""
    parameters = list(model.policy.parameters())
    with torch.no_grad():
        old = Categorical(logits=model.logits(steps.states))

    def surrogate() -> Tensor:
        logprobs = Categorical(logits=model.logits(steps.states)).log_prob(steps.actions)
        return mean(probability_ratio(logprobs, steps.old_logprobs) * steps.advantages)

    def kl() -> Tensor:
        new = Categorical(logits=model.logits(steps.states))
        return mean(torch.distributions.kl_divergence(old, new))

    start = surrogate()
    slope = flat(torch.autograd.grad(start, parameters)).detach()
    first = flat(torch.autograd.grad(kl(), parameters, create_graph=True))

    def product(vector: Tensor) -> Tensor:
        second = torch.autograd.grad(first @ vector, parameters, retain_graph=True)
        return flat(second).detach() + settings.cg_damping * vector

    direction = conjugate_gradient(product, slope, iterations=settings.cg_iterations)
    step = trust_region_step(direction, product(direction), max_kl=settings.max_kl)
    origin = nn.utils.parameters_to_vector(parameters).detach()

    @torch.no_grad()
    def evaluate(share: float) -> tuple[float, float]:
        nn.utils.vector_to_parameters(origin + share * step, parameters)
        return (surrogate() - start).item(), kl().item()

    trial = search_back(evaluate, max_kl=settings.max_kl)
    nn.utils.vector_to_parameters(origin + trial.share * step, parameters)
    for _ in range(settings.critic_epochs):
        for places in torch.randperm(len(steps.actions)).split(settings.minibatch):
            some = steps.take(places)
            loss = mean((model.values(some.states) - some.returns).square())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return trial.kl, trial.gain


def flat(tensors: tuple[Tensor, ...]) -> Tensor:
    """As one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def train(task: str, method: str, seed: int, *, settings: Settings | None = None) -> dict[str, float]:
    """Learn, and measure the greedy policy on fresh episodes."""
    settings = settings or SETTINGS[task, method]
    torch.manual_seed(seed)
    collector = Collector([gymnasium.make(TASKS[task]) for _ in range(settings.environments)], seed)
    observations = collector.states.shape[1]
    model = ControlModel(observations, int(collector.envs[0].action_space.n))
    if method == "reinforce":
        settings = replace(settings, value_coef=0.0)
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, eps=1e-5)
    if method == "a2c":
        optimizer = torch.optim.RMSprop(model.parameters(), lr=settings.lr, alpha=0.99, eps=1e-5)
    began, furthest = time.monotonic(), 0.0
    while collector.steps < settings.steps:
        left = 1 - collector.steps / settings.steps if settings.linear else 1.0
        optimizer.param_groups[0]["lr"] = settings.lr * left
        batch = collector.collect(model, settings)
        steps = judge(model, batch, settings, critic=method != "reinforce")
        if method == "trpo":
            bound = replace(settings, max_kl=settings.max_kl * left)
            kl, _ = trust_region_update(model, steps, optimizer, bound)
            furthest = max(furthest, kl)
        else:
            clipped_updates(model, steps, optimizer, settings, clip=settings.clip * left)
        if settings.normalise:  # not before the updates: they are against the policy that acted
            model.standard.add(batch.states)
    score, spread = evaluate(model, task, seed)
    return {
        "seed": seed,
        "return": round(score, 1),
        "std": round(spread, 1),
        "training_return": round(float(np.mean(collector.returns[-100:])), 1),
        "steps": collector.steps,
        "seconds": round(time.monotonic() - began, 1),
        **({"largest_kl": round(furthest, 5)} if method == "trpo" else {}),
    }


def evaluate(model: ControlModel, task: str, seed: int) -> tuple[float, float]:
    """Mean and standard deviation of returns of the greedy policy."""
    env, totals = gymnasium.make(TASKS[task]), []
    for episode in range(EVALUATION_EPISODES):
        state, _ = env.reset(seed=10_000_000 + 1000 * seed + episode)
        total, over = 0.0, False
        while not over:
            with torch.no_grad():
                action = int(model.logits(torch.tensor(state)).argmax())
            state, reward, ended, cut, _ = env.step(action)
            total, over = total + float(reward), ended or cut
        totals.append(total)
    return float(np.mean(totals)), float(np.std(totals))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="cartpole")
    parser.add_argument("--method", choices=sorted({method for _, method in SETTINGS}), default="ppo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="add the results to this file, one JSON object a line")
    given = parser.parse_args()
    if (given.task, given.method) not in SETTINGS:
        parser.error(f"no settings for {given.method} on {given.task}; add them to SETTINGS")
    torch.set_num_threads(1)
    for seed in given.seeds:
        result = {"task": given.task, "method": given.method, **train(given.task, given.method, seed)}
        print(json.dumps(result), flush=True)
        if given.out:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
