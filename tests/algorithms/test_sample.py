"""`prefloop sample`: what it writes, and that doing it again, in other company or in parts, writes the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prefloop.algorithms import sample as module
from prefloop.algorithms.sample import sample_completions
from prefloop.configs.common import Compute, Data, Sampling
from prefloop.configs.sample import SampleConfig
from prefloop.data import write_jsonl
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.losses import sequence_sum
from prefloop.models.load import load_policy
from prefloop.models.packing import pack
from prefloop.models.weights import weights_sha256
from prefloop.records import Completion
from prefloop.rollout import sample
from prefloop.runtime.interrupt import Interrupted
from prefloop.text import encode_prompt, load_tokenizer, stop_token_ids
from prefloop.text.groups import Group
from tests.runtime.processes import run_processes
from tests.tiny_project import WORLD, make_model, make_prompts

TOKENS = 6


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SampleConfig:
    """A tiny model and six prompts."""
    folder = tmp_path_factory.mktemp("sample")
    return SampleConfig(
        model=str(make_model(folder / "model")),
        data=Data(source=str(make_prompts(folder / "prompts.jsonl"))),
        store="",
        completions_per_prompt=3,
        part="all",
        seed=7,
        sampling=Sampling(max_new_tokens=TOKENS, temperature=0.9, batch_size=4),
        compute=Compute(device="cpu"),
    )


def stored(store: str | Path) -> list[Completion]:
    with Store.open(store, create=False) as opened:
        return opened.completions()


def assert_same(got: list[Completion], expected: list[Completion]) -> None:
    """The same completions; another batch may change the last bits of a log-probability."""
    assert [replace(c, logprob=0.0) for c in got] == [replace(c, logprob=0.0) for c in expected]
    assert [c.logprob for c in got] == pytest.approx([c.logprob for c in expected], abs=1e-4)


@pytest.fixture(scope="module")
def drawn(config: SampleConfig, tmp_path_factory: pytest.TempPathFactory) -> list[Completion]:
    """All completions, drawn in one go."""
    store = str(tmp_path_factory.mktemp("drawn") / "s.db")
    sample_completions(replace(config, store=store))
    return stored(store)


def test_completions_come_with_all_that_made_them(
    config: SampleConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "s.db")
    assert sample_completions(replace(config, store=store)) == store
    assert (
        f"{store}: 3 completions of each of 6 prompts by {config.model}; 18 drawn now"
        in capsys.readouterr().out
    )
    completions = stored(store)
    assert [c.prompt for c in completions] == [p for p in WORLD.prompts(6) for _ in range(3)]
    assert [c.index for c in completions] == [0, 1, 2] * 6
    assert len({c.text for c in completions}) > 12  # D7
    for c in completions:
        assert (c.policy, c.temperature, c.top_p, c.top_k, c.seed) == (config.model, 0.9, 1.0, 0, 7)
        assert c.tokens == TOKENS or (c.ended and c.tokens < TOKENS)
    with Store.open(store) as opened:
        assert opened.find_checkpoint(weights_sha256(config.model)[:12]) == 1


def test_logprob_is_that_of_the_forward_pass_at_the_sampling_temperature(  # K1
    config: SampleConfig, drawn: list[Completion]
) -> None:
    """On the tokens that were drawn: text of random bytes does not read back as the same ones."""
    tokenizer = load_tokenizer(config.model)
    policy = load_policy(config.model, config.compute)
    prompt = drawn[0].prompt
    ids = encode_prompt(tokenizer, prompt)
    options = {"stop_ids": stop_token_ids(tokenizer), "sampling": config.sampling, "seed": config.seed}
    [again] = sample(policy.model, [ids], k=3, row_keys=[int(prompt.sha256[:16], 16)], **options)
    completions = tuple(one.tokens for one in again)
    masks = tuple([True] * len(tokens) for tokens in completions)
    batch = pack([Group(prompt=ids, completions=completions, masks=masks)])
    with torch.no_grad():
        total = sequence_sum(policy(batch, temperature=0.9), batch.completion_mask)
    assert total.tolist() == pytest.approx([c.logprob for c in drawn[:3]], abs=1e-4)
    with torch.no_grad():
        at_one = sequence_sum(policy(batch), batch.completion_mask)
    assert at_one.tolist() != pytest.approx([c.logprob for c in drawn[:3]], abs=1e-2)


def test_done_again_it_draws_nothing(
    config: SampleConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, store=str(tmp_path / "s.db"))
    sample_completions(config)
    before = stored(config.store)
    capsys.readouterr()
    monkeypatch.setattr(module, "sample", None)
    sample_completions(config)
    assert "0 drawn now, 18 were there" in capsys.readouterr().out
    assert stored(config.store) == before


def test_what_is_drawn_depends_on_the_prompt_and_not_on_its_company(
    config: SampleConfig, drawn: list[Completion], tmp_path: Path
) -> None:
    prompts = list(reversed(WORLD.prompts(6)))[1:4]
    write_jsonl(prompts, tmp_path / "some.jsonl")
    some = replace(config, store=str(tmp_path / "s.db"), data=Data(source=str(tmp_path / "some.jsonl")))
    sample_completions(some)
    assert_same(stored(some.store), [c for prompt in prompts for c in drawn if c.prompt == prompt])


def test_more_completions_and_another_limit_add_only_what_is_new(
    config: SampleConfig, tmp_path: Path
) -> None:
    config = replace(config, store=str(tmp_path / "s.db"), completions_per_prompt=1)
    sample_completions(config)
    sample_completions(replace(config, completions_per_prompt=2))
    assert len(stored(config.store)) == 12
    sample_completions(replace(config, sampling=replace(config.sampling, max_new_tokens=TOKENS + 2)))
    longer = [c for c in stored(config.store) if c.tokens > TOKENS]
    assert longer
    assert all(c.index == 0 for c in longer)


def test_interrupted_it_keeps_what_it_has_and_goes_on(
    config: SampleConfig, drawn: list[Completion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, store=str(tmp_path / "s.db"))
    real, calls = module.sample, []

    def interrupted(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module, "ROUNDS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "sample", interrupted)
        with pytest.raises(
            Interrupted, match=r"3 of 18 completions are in .*; run the same command to continue"
        ):
            sample_completions(config)
    assert len(stored(config.store)) == 3
    sample_completions(config)
    assert_same(stored(config.store), drawn)


def test_two_processes_draw_what_one_draws(
    config: SampleConfig, drawn: list[Completion], tmp_path: Path
) -> None:
    store = tmp_path / "s.db"
    line = f"sample --model {config.model} --data {config.data.source} --store {store} --completions_per_prompt 3 --part all --seed 7"
    line += f" --sampling.max_new_tokens {TOKENS} --sampling.temperature 0.9 --sampling.batch_size 4 --compute.device cpu"
    first, second = run_processes(2, "prefloop", *line.split())
    assert "18 drawn now" in first
    assert second == ""
    assert [(c.prompt, c.text, c.index) for c in stored(store)] == [
        (c.prompt, c.text, c.index) for c in drawn
    ]
    assert [c.logprob for c in stored(store)] == pytest.approx([c.logprob for c in drawn], abs=1e-5)


def test_parts_and_the_store_as_source(config: SampleConfig, tmp_path: Path) -> None:
    store = str(tmp_path / "s.db")
    with Store.open(store) as opened:
        opened.add_prompts(WORLD.prompts(6))
    config = replace(config, store=store, data=Data(source="store", heldout=0.5))
    for part in ("train", "heldout"):
        sample_completions(replace(config, part=part))
        with Store.open(store) as opened:
            got = {c.prompt for c in opened.completions()}
            expected = set(opened.prompts(part="train", heldout=0.5))
        assert got == expected if part == "train" else got == set(WORLD.prompts(6))


def test_no_prompt_in_the_part(config: SampleConfig, tmp_path: Path) -> None:
    config = replace(
        config, store=str(tmp_path / "s.db"), part="heldout", data=replace(config.data, heldout=0.0)
    )
    with pytest.raises(InputError, match="no prompt in part 'heldout'"):
        sample_completions(config)
