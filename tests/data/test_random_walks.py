"""The random-walks task: distances against brute force, optimality by hand, walks that keep to edges."""

from itertools import pairwise

import pytest

from prefloop.data.random_walks import (
    GOAL,
    Graph,
    make_graph,
    optimality,
    read,
    scored_walks,
    spell,
)
from prefloop.errors import InputError
from prefloop.records import Prompt

LINE = Graph(following=((), (0, 2), (1, 3), (0,)), shortest=(1, 2, 3, 2), longest=5)
"""1 and 3 lead to the goal, 2 to both of them."""


def shortest_by_trying(graph: Graph, start: int) -> int:
    """Nodes of the shortest path, from all paths."""
    paths = [[start]]
    while all(path[-1] != GOAL for path in paths):
        paths = [[*path, node] for path in paths for node in graph.following[path[-1]] if node not in path]
    return len(paths[0])


def test_the_graph_is_what_the_task_says():
    graph = make_graph()
    assert len(graph.following) == 21
    assert graph.following[GOAL] == ()
    for node in graph.starts:
        assert graph.following[node]
        assert node not in graph.following[node]
        assert graph.shortest[node] == shortest_by_trying(graph, node) < graph.longest
    assert 1.5 < sum(map(len, graph.following)) / 20 < 3.0
    assert make_graph(seed=1) != graph == make_graph()


def test_optimality_by_hand():
    assert LINE.optimality([2, 1, 0]) == 1.0
    assert LINE.optimality([2, 1, 2, 1, 0]) == 0.0  # as many nodes as may be
    assert LINE.optimality([1, 2, 3, 0]) == pytest.approx(1 / 3)
    assert LINE.optimality([1, 0, 3, 3]) == 1.0  # what follows the goal is not looked at
    assert LINE.optimality([2, 0]) == 0.0  # no such edge
    assert LINE.optimality([2, 1, 2]) == 0.0  # does not arrive
    assert LINE.optimality([3, 3, 0]) == 0.0
    assert LINE.optimality([2, -1, 0]) == 0.0


def test_walks_keep_to_edges_and_end_at_the_goal_or_the_limit():
    graph = make_graph()
    walks = graph.walks(300, seed=5)
    assert walks == graph.walks(300, seed=5) != graph.walks(300, seed=6)
    assert {walk[0] for walk in walks} == set(graph.starts)
    for walk in walks:
        assert all(b in graph.following[a] for a, b in pairwise(walk))
        assert (walk[-1] == GOAL) or len(walk) == graph.longest
        assert GOAL not in walk[:-1]


def test_scored_walks_are_scored_as_a_reward_function_would():
    walks = list(scored_walks(200))
    assert optimality([one.prompt for one in walks], [one.completion for one in walks]) == [
        one.value for one in walks
    ]
    assert len(list(scored_walks())) == 1000
    values = [one.value for one in walks]
    assert 0.0 in values
    assert 1.0 in values
    assert 0.3 < sum(values) / len(values) < 0.7  # there is something to learn


def test_letters():
    assert spell([0, 1, 20]) == "abu"
    assert read("abu") == [0, 1, 20]
    assert read("a?") == [0, -1]
    with pytest.raises(InputError, match="no start of the graph"):
        optimality([Prompt(content="a")], ["b"])
    with pytest.raises(InputError, match="nodes is 30"):
        make_graph(nodes=30)
    with pytest.raises(InputError, match="give more edges"):
        make_graph(edge=0.0)
