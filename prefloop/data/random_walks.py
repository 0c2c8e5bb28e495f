"""Random walks on a small graph, scored by how near they come to the shortest way: offline data whose best policy is known.

The task of Chen et al. 2021 (arXiv:2106.01345, section 3) in the settings of trlX: 21 nodes, an edge from one to another with probability 0.1, walks of at most
ten nodes from a random start, the goal at node 0. A walk is a text of one letter a node; its prompt is the start, its completion the rest. Almost no walk in
the data is the shortest one from its start, yet every shortest path can be put together from steps that are in it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from prefloop.errors import InputError
from prefloop.records import Prompt, Score

NODES, LONGEST, EDGE_PROBABILITY, WALKS, SEED = 21, 10, 0.1, 1000, 1002
GOAL = 0
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """Where each node leads, and how far each is from the goal."""

    following: tuple[tuple[int, ...], ...]
    """Nodes that each node has an edge to, in order; the goal has none."""
    shortest: tuple[int, ...]
    """Nodes on the shortest path to the goal, both ends counted."""
    longest: int
    """Nodes of a walk at most."""

    @property
    def starts(self) -> tuple[int, ...]:
        """Nodes that a walk may begin at: all but the goal."""
        return tuple(range(1, len(self.following)))

    def length(self, walk: Sequence[int]) -> int:
        """Nodes until the goal; `longest` for a walk that does not reach it, takes a step that is no edge, or takes longer."""
        for place, node in enumerate(walk[: self.longest]):
            if place and node not in self.following[walk[place - 1]]:
                return self.longest
            if node == GOAL:
                return place + 1
        return self.longest

    def optimality(self, walk: Sequence[int]) -> float:
        """(longest - length) / (longest - shortest): 1 for a shortest path, 0 for one that takes `longest` nodes or does not arrive."""
        return (self.longest - self.length(walk)) / (self.longest - self.shortest[walk[0]])

    def walks(self, count: int, *, seed: int) -> list[list[int]]:
        """Walks from random starts that take a random edge at every node, until the goal or the longest length."""
        draw = np.random.Generator(np.random.PCG64(seed))
        result: list[list[int]] = []
        for _ in range(count):
            walk = [int(draw.choice(self.starts))]
            while walk[-1] != GOAL and len(walk) < self.longest:
                walk.append(int(draw.choice(self.following[walk[-1]])))
            result.append(walk)
        return result


@cache
def make_graph(
    *, nodes: int = NODES, longest: int = LONGEST, edge: float = EDGE_PROBABILITY, seed: int = SEED
) -> Graph:
    """A graph drawn from the seed, and drawn again until every node has an edge and a way to the goal shorter than `longest`.

    Raises `InputError` for more nodes than letters, and where a hundred thousand graphs were not enough.
    """
    if not 2 <= nodes <= len(LETTERS):
        raise InputError(f"nodes is {nodes}; it must be between 2 and {len(LETTERS)}, a letter each")
    draw = np.random.Generator(np.random.PCG64(seed))
    for _ in range(100_000):
        edges = draw.random((nodes, nodes)) < edge
        np.fill_diagonal(edges, False)
        edges[GOAL] = False
        shortest = _distances(edges)
        if all(1 < distance < longest for distance in shortest[1:]):
            following = tuple(tuple(np.flatnonzero(row).tolist()) for row in edges)
            return Graph(following=following, shortest=tuple(shortest), longest=longest)
    raise InputError(
        f"no graph of {nodes} nodes with edge probability {edge:g} leads from everywhere to the goal within {longest} nodes; give more edges"
    )


def _distances(edges: np.ndarray) -> list[int]:
    """Nodes on the shortest path from each node to the goal, 0 if there is none; breadth first, backwards."""
    found = [0] * len(edges)
    found[GOAL] = 1
    front = [GOAL]
    while front:
        following = []
        for node in front:
            for before in np.flatnonzero(edges[:, node]).tolist():
                if not found[before]:
                    found[before] = found[node] + 1
                    following.append(before)
        front = following
    return found


def spell(walk: Sequence[int]) -> str:
    """A letter for each node."""
    return "".join(LETTERS[node] for node in walk)


def read(text: str) -> list[int]:
    """The nodes of a text, -1 (which no edge leads to) for what is no letter."""
    return [LETTERS.find(letter) for letter in text]


def scored_walks(count: int = WALKS, *, seed: int = SEED) -> Iterator[Score]:
    """Walks on the default graph as scored completions, their optimality the score."""
    graph = make_graph()
    for walk in graph.walks(count, seed=seed):
        prompt = Prompt(content=spell(walk[:1]))
        yield Score(prompt=prompt, completion=spell(walk[1:]), value=graph.optimality(walk))


def optimality(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """The reward function `prefloop.data.random_walks:optimality`, on the default graph. A prompt is one start's letter."""
    graph = make_graph()
    result = []
    for prompt, completion in zip(prompts, completions, strict=True):
        start = read(str(prompt.content))
        if len(start) != 1 or start[0] not in graph.starts:
            raise InputError(f"prompt {prompt.content!r} is no start of the graph; give one letter from b on")
        result.append(graph.optimality([*start, *read(completion)]))
    return result
