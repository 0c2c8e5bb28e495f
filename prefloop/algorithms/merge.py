"""Trainings of one base model, merged into one model (PAFT, arXiv:2406.17923: SFT and DPO trained side by side, so that neither undoes the other).

Printed: of each model the share of its weights that changed.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from prefloop.configs.common import RunSettings
from prefloop.configs.merge import MergeConfig
from prefloop.errors import InputError
from prefloop.loop.provenance import START, RunRecord, models_read
from prefloop.models.load import load_policy, save_policy
from prefloop.models.merge import merged
from prefloop.runtime import start_world
from prefloop.runtime.files import writing
from prefloop.runtime.manifest import check_finite, write_manifest
from prefloop.text import check_same_tokens, declare_stops, load_tokenizer, stop_token_ids


def merge(config: MergeConfig) -> Path:
    """Merge, save and return the folder. Raises `InputError` if models are not of one shape, or read text in other tokens."""
    out = Path(config.out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; name another folder with --out")
    compute = replace(config.compute, device="cpu")
    world = start_world("cpu")
    roles = {START: config.base} | {f"merged_{i + 1}": name for i, name in enumerate(config.models)}
    models = models_read(world, **roles)
    tokenizer = load_tokenizer(config.base, trust_remote_code=compute.trust_remote_code)
    with RunRecord(
        stage="merge",
        config=config,
        settings=RunSettings(out=config.out, store=config.store),
        world=world,
    ) as record:
        record.begin(models=models)
        policy = load_policy(config.base, compute)
        base = {name: tensor.detach().clone() for name, tensor in policy.model.state_dict().items()}
        trained, stops = [], list(stop_token_ids(tokenizer))
        for name in config.models:
            theirs = load_tokenizer(name, trust_remote_code=compute.trust_remote_code)
            check_same_tokens(tokenizer, theirs, what=f"model {name!r}")
            stops += stop_token_ids(theirs)
            state = dict(load_policy(name, compute).model.state_dict())
            _check_shapes(base, state, name, config.base)
            trained.append(state)
            print(f"{name}: {_changed(base, state):.1%} of its weights changed")
        count = len(config.models)
        weights = merged(
            base,
            trained,
            method=config.method,
            densities=config.densities or (1.0,) * count,
            weights=config.weights or (1.0,) * count,
            scale=config.scale,
        )
        policy.model.load_state_dict(weights)
        declare_stops(tokenizer, stops)
        with writing(out, way_out="name another folder with --out"):
            save_policy(policy, tokenizer, out)
            check_finite(out, way_out="merge with smaller weights, or leave out the model that has them")
            write_manifest(out)
        record.finish(out, kind="policy", step=0, metrics={})
    return out


def _check_shapes(base: dict[str, Tensor], state: dict[str, Tensor], name: str, of: str) -> None:
    for key in dict.fromkeys([*base, *state]):
        shapes = [tuple(weights[key].shape) if key in weights else None for weights in (base, state)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"model {name!r} is not of the shape of {of!r}: {key} is {shapes[1] or 'not there'}, not {shapes[0] or 'there'}; "
                "merge models that were trained from one base"
            )


def _changed(base: dict[str, Tensor], state: dict[str, Tensor]) -> float:
    """Share of weights that are not the base's."""
    total = sum(tensor.numel() for tensor in base.values())
    with torch.no_grad():
        return sum(int((state[key] != tensor).sum()) for key, tensor in base.items()) / total
