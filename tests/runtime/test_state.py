import enum
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefloop.errors import InputError
from prefloop.runtime.state import load_state, random_state, restore_random_state, save_state, seed_everything

CPU = torch.device("cpu")
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16),
    *(torch.int8, torch.uint8, torch.bool),
]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    raw = torch.tensor(
        draw(st.lists(st.integers(-9, 9), min_size=math.prod(shape), max_size=math.prod(shape)))
    )
    tensor = (raw.to(torch.float64) / 3).reshape(shape).to(draw(st.sampled_from(DTYPES)))
    return tensor.transpose(0, -1) if tensor.ndim >= 2 and draw(st.booleans()) else tensor


arrays = tensors().filter(lambda t: t.dtype != torch.bfloat16).map(lambda t: t.numpy())
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(width=64), st.text(max_size=5), tensors(), arrays
)
trees = st.recursive(
    leaves,
    lambda t: st.one_of(
        st.lists(t, max_size=3),
        st.lists(t, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=4), t, max_size=3),
    ),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    """Equal in type, dtype, shape and bits; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray)
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        assert isinstance(b, list | tuple)
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        assert isinstance(b, float)
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return a == b


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(tree=trees)
def test_a_tree_comes_back_equal(tree: object, tmp_path: Path) -> None:
    save_state(tree, tmp_path)
    assert same(load_state(tmp_path), tree)


def test_floats_keep_every_bit(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan]
    save_state(values, tmp_path)
    assert same(load_state(tmp_path), values)


def test_tensors_that_share_memory_come_back_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    save_state({"a": whole, "b": whole, "c": whole[2:4], "d": whole.view(2, 3)}, tmp_path)
    back = load_state(tmp_path)
    back["a"] += 100
    assert torch.equal(back["b"], whole)
    assert torch.equal(back["c"], torch.tensor([2.0, 3.0]))
    assert torch.equal(back["d"], whole.view(2, 3))


def test_keys_that_look_like_paths_do_not_collide(tmp_path: Path) -> None:
    tree = {
        "a/b": torch.tensor(1),
        "a": {"b": torch.tensor(2)},
        "a~1b": torch.tensor(3),
        "__metadata__": torch.tensor(4),
    }
    save_state(tree, tmp_path)
    assert same(load_state(tmp_path), tree)


def test_loaded_tensors_outlive_the_files(tmp_path: Path) -> None:
    save_state({"a": torch.ones(1000)}, tmp_path)
    back = load_state(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"")
    assert back["a"].sum() == 1000


def test_a_state_dict_comes_back_as_a_dict(tmp_path: Path) -> None:
    state = torch.nn.Linear(2, 2).state_dict()
    save_state(state, tmp_path)
    assert same(load_state(tmp_path), dict(state))


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [object()]}, "at /a/0: cannot keep builtins.object"),
        ({"a": np.float64(1)}, "cannot keep numpy.float64"),
        ({"a": Colour.RED}, "cannot keep .*Colour"),
        ({1: 2}, "key 1 is int"),
        (torch.eye(2).to_sparse(), "at /: cannot keep a torch.sparse_coo tensor"),
        (np.array(["text"]), "NumPy dtype <U4"),
    ],
)
def test_what_cannot_be_kept_is_named(tree: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        save_state(tree, tmp_path)


def test_damaged_state_is_named(tmp_path: Path) -> None:
    save_state({"a": torch.ones(10)}, tmp_path)
    data = (tmp_path / "state.safetensors").read_bytes()
    for damage in (data[:-8], b"", data[:4]):
        (tmp_path / "state.safetensors").write_bytes(damage)
        with pytest.raises(InputError, match="cannot be read"):
            load_state(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(data)
    text = (tmp_path / "state.json").read_text()
    for damage in (text[:-2], json.dumps({"pickle": "x"}), json.dumps({"tensor": "/none"})):
        (tmp_path / "state.json").write_text(damage)
        with pytest.raises(InputError, match="cannot be read"):
            load_state(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        load_state(tmp_path / "nowhere")


def draw() -> list[float]:
    old_numpy = np.random.rand()  # noqa: NPY002  the old global generator is what is tested
    return [random.random(), random.gauss(0, 1), old_numpy, torch.rand(()).item(), torch.randn(()).item()]


def test_random_states_go_on_where_they_were(tmp_path: Path) -> None:
    seed_everything(7)
    draw()  # gauss keeps a second value in its state
    save_state(random_state(CPU), tmp_path)
    expected = [draw(), draw()]
    seed_everything(8)
    restore_random_state(load_state(tmp_path), CPU)
    assert [draw(), draw()] == expected


def test_a_seed_fixes_every_generator() -> None:
    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
