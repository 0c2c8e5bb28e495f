import gc
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from prefloop.configs.common import Sampling
from prefloop.errors import InputError
from prefloop.rollout import decoders
from prefloop.rollout.sampler import Sampled, sample
from tests.models.tiny import PACKABLE, VOCABULARY, make
from tests.rollout.policies import (
    chi_square_p_value,
    draw_all,
    full_forward_logprobs,
    llama,
    prompts_of,
    tokens_of,
)

# Tokens that end about one completion in twenty at every step.
STOP = (10, 20, 30, 40, 50)


@pytest.mark.usefixtures("kind")
def test_what_is_drawn_does_not_depend_on_company():  # D7
    model, prompts = llama(), prompts_of()
    together = draw_all(model, prompts, k=3, stop_ids=STOP, max_new_tokens=14)
    assert len({len(one.tokens) for group in together for one in group}) > 4
    for batch_size in (1, 2, 5, 16):
        again = draw_all(model, prompts, k=3, stop_ids=STOP, max_new_tokens=14, batch_size=batch_size)
        assert tokens_of(again) == tokens_of(together)
    order = [4, 8, 0, 2, 6, 1, 7, 3, 5]
    shuffled = draw_all(
        model, [prompts[i] for i in order], k=3, stop_ids=STOP, max_new_tokens=14, row_keys=order
    )
    assert tokens_of(shuffled) == [tokens_of(together)[i] for i in order]
    # Two processes, each with every second prompt; and fewer samples are the first of more.
    for rank in (0, 1):
        share = draw_all(
            model, prompts[rank::2], k=2, stop_ids=STOP, max_new_tokens=14, row_keys=[*range(rank, 9, 2)]
        )
        assert tokens_of(share) == [group[:2] for group in tokens_of(together)[rank::2]]


def test_samples_of_one_prompt_differ_and_so_do_equal_prompts():  # D7 C9
    model, prompt = llama(), prompts_of((6,))[0]
    drawn = draw_all(model, [prompt, prompt], k=8)
    assert len({tuple(one.tokens) for group in drawn for one in group}) == 16
    other = draw_all(model, [prompt], k=8, seed=1)
    assert not {tuple(one.tokens) for one in other[0]} & {tuple(one.tokens) for one in drawn[0]}
    assert tokens_of(draw_all(model, [prompt, prompt], k=8)) == tokens_of(drawn)


def test_first_tokens_follow_the_policy():  # C9
    model, prompt = llama(), prompts_of((6,))[0]
    drawn = draw_all(model, [prompt], k=4000, max_new_tokens=1, temperature=1.5, batch_size=512)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    expected = 4000 * torch.softmax(logits / 1.5, -1).numpy()
    counts = np.bincount([one.tokens[0] for one in drawn[0]], minlength=VOCABULARY)
    assert chi_square_p_value(counts, expected) > 1e-3


@pytest.mark.parametrize(
    ("count", "k", "batch_size"), [(1, 1, 1), (7, 1, 3), (5, 4, 3), (3, 5, 64), (8, 2, 8)]
)
def test_every_prompt_is_consumed_once_and_answered_k_times(count: int, k: int, batch_size: int):  # D8 D7
    prompts = prompts_of((3, 1, 6, 2, 4, 4, 8, 5)[:count])
    seen: list[int] = []
    drawn = sample(
        llama(),
        prompts,
        k=k,
        stop_ids=STOP,
        sampling=Sampling(max_new_tokens=6, batch_size=batch_size),
        seed=0,
        row_keys=range(count),
        progress=seen.append,
    )
    assert [len(group) for group in drawn] == [k] * count
    assert seen == sorted(set(seen))
    assert seen[-1] == count * k
    assert draw_all(llama(), []) == []


class Watched:
    """Records what the model is asked to compute."""

    prefilled: ClassVar[list[tuple[int, ...]]] = []
    rows: ClassVar[list[int]] = []

    def prefill(self, prompts: Sequence[Sequence[int]]) -> object:
        self.prefilled.extend(tuple(prompt) for prompt in prompts)
        return super().prefill(prompts)  # pyright: ignore[reportAttributeAccessIssue]

    def logits(self, tokens: torch.Tensor, positions: torch.Tensor, columns: int) -> torch.Tensor:
        self.rows.append(len(tokens))
        assert columns == int(positions.max()) + 1
        return super().logits(tokens, positions, columns)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(params=["FusedDecoder", "CachedDecoder"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The decoder that llama is decoded with."""
    if request.param == "CachedDecoder":
        monkeypatch.setattr(decoders, "read_weights", lambda *args, **kwargs: None)
    return request.param


@pytest.fixture
def watched(kind: str, monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    Watched.prefilled.clear()
    Watched.rows.clear()
    monkeypatch.setattr(decoders, kind, type("WatchedDecoder", (Watched, getattr(decoders, kind)), {}))
    return Watched


def test_prompts_are_prefilled_once_and_no_step_computes_finished_completions(
    watched: type[Watched],
):
    prompts = prompts_of()
    drawn = draw_all(llama(), prompts, k=4, stop_ids=STOP, max_new_tokens=14, batch_size=6)
    assert Counter(watched.prefilled) == Counter(map(tuple, prompts))
    lengths = [len(one.tokens) for group in drawn for one in group]
    assert sum(watched.rows) == sum(lengths)
    # Finished slots are refilled at once: the batch is full until nothing waits, then shrinks.
    assert watched.rows == sorted(watched.rows, reverse=True)
    assert watched.rows[0] == 6


def test_caches_and_reordered_weights_are_freed_without_the_collector_of_cycles(watched: type[Watched]):
    model, prompts = llama(), prompts_of()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        draw_all(model, prompts, k=4, batch_size=6)
        assert watched.rows
        gc.collect()
        assert [one for one in gc.garbage if isinstance(one, torch.Tensor)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_the_stop_token_is_kept_and_ends_the_completion():  # M1 M2
    drawn = draw_all(llama(), prompts_of(), k=6, stop_ids=STOP, max_new_tokens=9)
    flat = [one for group in drawn for one in group]
    for one in flat:
        assert len(one.tokens) == len(one.logprobs) <= 9
        assert one.ended == (one.tokens[-1] in STOP)
        assert not set(one.tokens[:-1]) & set(STOP)
        assert one.ended or len(one.tokens) == 9
    assert {one.ended for one in flat} == {True, False}
    assert 1 in {len(one.tokens) for one in flat}


def test_a_stop_token_in_the_prompt_or_as_padding_stops_nothing():  # M1
    model = llama()
    assert model.config.pad_token_id == 0
    prompts = [[0, 7, 0], [0], [5, 0, 0, 6]]
    drawn = draw_all(model, prompts, k=2, stop_ids=(0,), max_new_tokens=5)
    for prompt, group in zip(prompts, drawn, strict=True):
        for one in group:
            assert one.logprobs == pytest.approx(
                full_forward_logprobs(model, prompt, one.tokens, 1.0), abs=1e-4
            )


def test_no_stop_tokens_means_every_completion_is_cut():
    drawn = draw_all(llama(), prompts_of((3, 5)), max_new_tokens=4)
    assert [(len(one.tokens), one.ended) for group in drawn for one in group] == [(4, False)] * 2


@pytest.mark.parametrize("settings", [{"top_p": 1e-6}, {"top_k": 1}, {"temperature": 0.0}])
def test_settings_reach_the_draw(settings: dict[str, Any]):  # K7
    """Each of these leaves the likeliest token alone, whatever the random numbers are."""
    model, prompts = llama(), prompts_of((3, 5))
    greedy = [group[0] for group in tokens_of(draw_all(model, prompts, k=1, temperature=0.0))]
    for group, tokens in zip(tokens_of(draw_all(model, prompts, k=3, **settings)), greedy, strict=True):
        assert group == [tokens] * 3
    assert any(
        group != [tokens] * 3
        for group, tokens in zip(tokens_of(draw_all(model, prompts, k=3)), greedy, strict=True)
    )


def test_top_k_bounds_what_is_drawn():
    model, prompt = llama(), prompts_of((6,))[0]
    drawn = draw_all(model, [prompt], k=200, max_new_tokens=1, top_k=3)
    with torch.no_grad():
        best = model(input_ids=torch.tensor([prompt])).logits[0, -1].topk(3).indices.tolist()
    assert {one.tokens[0] for one in drawn[0]} == set(best)


def test_broken_neighbours_do_not_reach_other_completions(
    kind: str, monkeypatch: pytest.MonkeyPatch
):  # M8 M13
    """Whatever a slot's former completion left behind its successor's last position is never seen."""
    model, prompts = llama(), prompts_of((12, 12, 2, 2))
    clean = draw_all(model, prompts, k=2, stop_ids=STOP, batch_size=2)
    decoder = getattr(decoders, kind)
    kept, spoiled = decoder.fill, []

    def spoil(self, slots, prefill, sources):  # pyright: ignore[reportMissingParameterType]
        spoiled.append(slots)
        if kind == "FusedDecoder":
            for store in self._pairs:
                store[:, list(slots)] = 1e4
        else:
            for store in (store for pair in self._cache._pairs.values() for store in pair):
                store[list(slots)] = 1e4
        kept(self, slots, prefill, sources)

    monkeypatch.setattr(decoder, "fill", spoil)
    assert tokens_of(draw_all(model, prompts, k=2, stop_ids=STOP, batch_size=2)) == tokens_of(clean)
    assert len(spoiled) > 2


def test_dropout_is_off_and_every_training_flag_comes_back():  # K8
    model = make(PACKABLE["gpt2"])
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    clean = draw_all(model.eval(), prompts_of())
    model.train()
    model.get_submodule("transformer.h.0").eval()
    flags = [module.training for module in model.modules()]
    assert tokens_of(draw_all(model, prompts_of())) == tokens_of(clean)
    assert [module.training for module in model.modules()] == flags


def test_an_interrupt_leaves_the_model_as_it_was():
    model = llama().train()
    model.config._attn_implementation = "flex_attention"

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(
            model,
            prompts_of(),
            k=1,
            stop_ids=STOP,
            sampling=Sampling(max_new_tokens=4),
            seed=0,
            row_keys=range(9),
            progress=stop,
        )
    assert all(module.training for module in model.modules())
    assert model.config._attn_implementation == "flex_attention"


def test_training_goes_on_after_sampling():
    model, prompts = llama().train(), prompts_of()
    draw_all(model, prompts)
    model(input_ids=torch.tensor([prompts[0]]), labels=torch.tensor([prompts[0]])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[3, 4], []], "prompt 1 has no token"),
        (
            [[3, 97]],
            "prompt 0 has token id 97, but the model knows ids 0 to 96; the tokenizer is not this model's",
        ),
        ([[3], [4, -1]], "prompt 1 has token id -1"),
    ],
)
def test_prompts_the_model_cannot_read_are_errors(prompts: list[list[int]], message: str):
    with pytest.raises(InputError, match=message):
        draw_all(llama(), prompts)


def test_keys_that_repeat_and_no_samples_are_errors():  # D7
    with pytest.raises(
        ValueError, match="2 prompts need as many different row_keys, but there are 2, 1 of them"
    ):
        draw_all(llama(), [[3], [4]], row_keys=[5, 5])
    with pytest.raises(InputError, match="completions per prompt is 0"):
        draw_all(llama(), [[3]], k=0)


def test_a_policy_that_has_diverged_is_an_error():
    model = llama()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="its weights are unusable: use an earlier checkpoint"):
        draw_all(model, [[3, 4], [5]])


def test_sampled_is_frozen():
    one = Sampled(tokens=[1], logprobs=[-0.5], ended=True)
    with pytest.raises(AttributeError):
        one.ended = False  # pyright: ignore[reportAttributeAccessIssue]
