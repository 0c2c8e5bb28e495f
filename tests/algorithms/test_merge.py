"""`prefloop merge`: a model that loads, with its lineage; models of other shapes are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prefloop.algorithms.merge import merge
from prefloop.configs.merge import MergeConfig
from prefloop.data.store import Store
from prefloop.data.store.lineage import lineage
from prefloop.errors import InputError
from prefloop.models.load import load_policy, new_language_model, save_policy
from prefloop.text import load_tokenizer
from tests.algorithms.tiny import CPU
from tests.tiny_project import SIZE


def moved(start: Path, folder: Path, name: str, by: float) -> Path:
    """The model with one of its tensors moved."""
    policy = load_policy(str(start), CPU)
    with torch.no_grad():
        policy.model.get_parameter(name).add_(by)
    save_policy(policy, load_tokenizer(str(start)), folder)
    return folder


def test_two_trainings_become_one_model_with_its_lineage(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = project / "start"
    norm, other = "model.norm.weight", "model.layers.0.input_layernorm.weight"
    one = moved(start, tmp_path / "one", norm, 0.5)
    two = moved(start, tmp_path / "two", other, -0.25)
    out = merge(
        MergeConfig(base=str(start), models=(str(one), str(two)), out=str(tmp_path / "both"), compute=CPU)
    )
    weights = load_policy(str(out), CPU).model.state_dict()
    expected = load_policy(str(start), CPU).model.state_dict()
    expected[norm] += 0.5
    expected[other] -= 0.25
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, msg=name)
    assert "of its weights changed" in capsys.readouterr().out
    with Store.open(str(tmp_path / "prefloop.db")) as store:
        tree = lineage(store, str(out)).render()
    assert "merge" in tree
    assert "one" in tree
    with pytest.raises(InputError, match="not empty"):
        merge(MergeConfig(base=str(start), models=(str(one), str(two)), out=str(out), compute=CPU))


def test_models_of_another_shape_or_number_are_refused(project: Path, tmp_path: Path) -> None:
    start, wide = str(project / "start"), tmp_path / "wide"
    ours = load_tokenizer(start)
    save_policy(new_language_model(replace(SIZE, hidden_size=24), ours, CPU, seed=0), ours, wide)
    config = MergeConfig(base=start, models=(start, str(wide)), out=str(tmp_path / "no"), compute=CPU)
    with pytest.raises(InputError, match="not of the shape"):
        merge(config)
    with pytest.raises(InputError, match="two or more"):
        MergeConfig(base=start, models=(start,), out="x")
    with pytest.raises(InputError, match="2 models"):
        MergeConfig(base=start, models=(start, start), out="x", weights=(1.0,))
    with pytest.raises(InputError, match="densities has 0"):
        MergeConfig(base=start, models=(start, start), out="x", densities=(0.0, 1.0))
