"""T5 and BART against transformers: log-probabilities, gradients, greedy completions, scores; and what is refused of models with an encoder."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerBase

from prefloop.configs.common import Compute, LoRA, Sampling
from prefloop.configs.engine import OnlineSampling
from prefloop.errors import InputError
from prefloop.loop.engine_source import EngineSampler
from prefloop.losses.reduce import mean_over
from prefloop.models.encoder_decoder import opening_of, positions_needed
from prefloop.models.load import (
    load_policy,
    load_reward_model,
    new_reward_model,
    save_classifier,
    save_policy,
)
from prefloop.models.lora import Task, add_adapter
from prefloop.models.packing import pack
from prefloop.models.roles import Policy
from prefloop.records import Comparison, Demonstration, Message, Prompt
from prefloop.rollout import sample
from prefloop.rollout.steered import geometric_mixture
from prefloop.rollout.stream import stream
from prefloop.runtime import World
from prefloop.text import (
    Group,
    check_same_tokens,
    completions_group,
    decode_completions,
    encode_all,
    encode_prompt,
    load_tokenizer,
    pretraining_blocks,
    stop_token_ids,
)
from tests.tiny_encoder_decoders import KINDS, save
from tests.tiny_project import tokenizer as causal_tokenizer

CPU = Compute(device="cpu")
TEXTS = ("red blue green", "cat", "one two three four five six dog")
ANSWERS = (("green blue red", "green"), ("bad cat",), ("dog six five", "good dog one two three", "one"))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A folder as prefloop opens it and as transformers does."""

    folder: str
    tokenizer: PreTrainedTokenizerBase
    policy: Policy
    theirs: Any
    """As transformers' auto class opens it."""

    @property
    def opening(self) -> list[int]:
        return list(opening_of(self.theirs))

    def groups(self) -> list[Group]:
        return [
            completions_group(self.tokenizer, Prompt(content=text), answers)
            for text, answers in zip(TEXTS, ANSWERS, strict=True)
        ]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = save(request.param, tmp_path_factory.mktemp(request.param) / "model", seed=1)
    return Pair(
        folder=folder,
        tokenizer=load_tokenizer(folder),
        policy=load_policy(folder, CPU),
        theirs=AutoModelForSeq2SeqLM.from_pretrained(folder).eval(),
    )


def alone(pair: Pair, group: Group) -> list[Tensor]:
    """Log-probabilities of a group's completions by transformers' own forward pass over each by itself, without padding."""
    rows = []
    for completion in group.completions:
        logits = pair.theirs(
            input_ids=torch.tensor([group.prompt]),
            decoder_input_ids=torch.tensor([[*pair.opening, *completion[:-1]]]),
        ).logits[0, len(pair.opening) - 1 :]
        rows.append(logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0])
    return rows


def greedy(model: Any, prompt: Sequence[int], new: int) -> list[int]:
    """By `generate`, as it begins by itself."""
    before = len(opening_of(model))
    ids = model.generate(torch.tensor([prompt]), max_new_tokens=new + before - 1, do_sample=False)
    return ids[0, before:].tolist()


def draw(pair: Pair, *, k: int = 1, temperature: float = 0.0, batch_size: int = 2, new: int = 9):
    return sample(
        pair.policy.model,
        [encode_prompt(pair.tokenizer, Prompt(content=text)) for text in TEXTS],
        k=k,
        stop_ids=stop_token_ids(pair.tokenizer),
        sampling=Sampling(temperature=temperature, max_new_tokens=new, batch_size=batch_size),
        seed=1,
        row_keys=range(len(TEXTS)),
    )


def test_both_texts_have_the_special_tokens_of_their_own(pair: Pair) -> None:
    group = pair.groups()[0]
    source = pair.tokenizer(TEXTS[0])["input_ids"]
    targets = [pair.tokenizer(text_target=answer)["input_ids"] for answer in ANSWERS[0]]
    assert group.prompt == source
    assert [[*pair.opening[1:], *ids] for ids in group.completions] == targets
    assert decode_completions(pair.tokenizer, group.completions) == list(ANSWERS[0])


def test_a_long_source_keeps_its_beginning_and_its_end_token(pair: Pair) -> None:
    record = Demonstration(prompt=Prompt(content=TEXTS[2]), completion="one")
    (group,) = encode_all(
        pair.tokenizer, [record], max_prompt_tokens=5, max_completion_tokens=9, overlong="truncate"
    ).groups
    assert group.prompt == pair.tokenizer(TEXTS[2], truncation=True, max_length=5)["input_ids"]


def test_log_probabilities_are_those_of_transformers(pair: Pair) -> None:
    batch = pack(pair.groups())
    with torch.no_grad():
        ours = pair.policy(batch)
        expected = [row for group in pair.groups() for row in alone(pair, group)]
    assert pair.policy.way == "encoded"
    assert pair.policy.linear_head
    for row, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(row[: len(theirs)], theirs, atol=2e-6, rtol=0)


def test_a_head_computed_in_full_gives_the_same(pair: Pair) -> None:
    batch = pack(pair.groups())
    whole = Policy(pair.policy.model, way="encoded", linear_head=False)
    with torch.no_grad():
        torch.testing.assert_close(whole(batch), pair.policy(batch), atol=2e-6, rtol=0)


def test_gradients_are_those_of_the_labels_loss(pair: Pair) -> None:
    """The mean over target tokens, of padded batches by transformers; BART's `<s>`, which `generate` forces, is no target."""
    groups = [group.take([0]) for group in pair.groups()]
    batch = pack(groups)
    logprobs = pair.policy(batch)
    loss = mean_over(-logprobs, batch.completion_mask, count=float(batch.completion_mask.sum()))
    pair.policy.zero_grad()
    loss.backward()

    sources = pair.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    width = max(len(group.completions[0]) for group in groups)
    forced = pair.opening[1:]
    targets = torch.tensor(
        [[*forced, *g.completions[0], *[-100] * (width - len(g.completions[0]))] for g in groups]
    )
    read = pair.theirs.prepare_decoder_input_ids_from_labels(labels=targets)
    targets[:, : len(forced)] = -100
    pair.theirs.zero_grad()
    theirs = cross_entropy(
        pair.theirs(**sources, decoder_input_ids=read).logits.flatten(0, 1), targets.flatten()
    )
    assert len(forced) or torch.allclose(theirs, pair.theirs(**sources, labels=targets).loss)
    theirs.backward()
    torch.testing.assert_close(loss, theirs, atol=1e-6, rtol=0)
    expected = dict(pair.theirs.named_parameters())
    for name, parameter in pair.policy.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=2e-6, rtol=1e-4, msg=name)


def test_greedy_completions_are_those_of_generate(pair: Pair) -> None:
    """Also where completions of other prompts run beside one, and end before it."""
    drawn = draw(pair)
    for text, (one,) in zip(TEXTS, drawn, strict=True):
        assert one.tokens == greedy(pair.theirs, encode_prompt(pair.tokenizer, Prompt(content=text)), 9)


def test_the_encoder_reads_a_prompt_once_for_its_completions(pair: Pair) -> None:
    read: list[int] = []
    hook = pair.policy.model.get_encoder().register_forward_hook(
        lambda *args: read.append(len(args[2].last_hidden_state))
    )
    try:
        draw(pair, k=4, batch_size=3)
        assert sum(read) == len(TEXTS)
        with torch.no_grad():
            pair.policy(pack(pair.groups()))
        assert sum(read) == 2 * len(TEXTS)
    finally:
        hook.remove()


@pytest.mark.parametrize("batch_size", [1, 4, 99])
def test_samples_are_the_same_in_any_company_and_have_the_policys_log_probabilities(
    pair: Pair, batch_size: int
) -> None:
    drawn = draw(pair, k=3, temperature=1.0, batch_size=batch_size)
    assert len({len(one.tokens) for group in drawn for one in group}) > 1
    assert [[one.tokens for one in group] for group in drawn] == [
        [one.tokens for one in group] for group in draw(pair, k=3, temperature=1.0, batch_size=5)
    ]
    groups = [
        Group(
            prompt=encode_prompt(pair.tokenizer, Prompt(content=text)),
            completions=tuple(one.tokens for one in group),
            masks=tuple([True] * len(one.tokens) for one in group),
        )
        for text, group in zip(TEXTS, drawn, strict=True)
    ]
    with torch.no_grad():
        ours = pair.policy(pack(groups))
    for row, one in zip(ours, (one for group in drawn for one in group), strict=True):
        torch.testing.assert_close(row[: len(one.tokens)], torch.tensor(one.logprobs), atol=1e-5, rtol=0)


def test_a_stream_draws_the_same(pair: Pair) -> None:
    prompt = encode_prompt(pair.tokenizer, Prompt(content=TEXTS[1]))
    tokens = stream(
        pair.policy.model,
        prompt,
        stop_ids=stop_token_ids(pair.tokenizer),
        sampling=Sampling(max_new_tokens=9),
        seed=1,
        key=1,
    )
    assert list(tokens) == draw(pair, temperature=1.0)[1][0].tokens


def test_two_policies_draw_from_their_mixture(pair: Pair) -> None:
    """Of a policy and itself the mixture is the policy; of a policy and another all of the other is the other."""
    other = load_policy(save_other(pair), CPU)
    sampling = Sampling(temperature=1.0, max_new_tokens=9, batch_size=2)
    prompts = [encode_prompt(pair.tokenizer, Prompt(content=text)) for text in TEXTS]

    def drawn(model: torch.nn.Module) -> list[list[int]]:
        found = sample(
            model,
            prompts,
            k=1,
            stop_ids=stop_token_ids(pair.tokenizer),
            sampling=sampling,
            seed=1,
            row_keys=range(3),
        )
        return [one.tokens for (one,) in found]

    with geometric_mixture(pair.policy, other, share=1.0).active() as mixed:
        assert drawn(mixed) == drawn(other.model)
    with geometric_mixture(pair.policy, pair.policy, share=0.3).active() as mixed:
        assert drawn(mixed) == drawn(pair.policy.model)


def save_other(pair: Pair) -> str:
    folder = Path(pair.folder).parent / "other"
    return save("bart" if len(pair.opening) == 2 else "t5", folder, seed=7)


def test_a_reference_has_an_encoder_of_its_own(pair: Pair) -> None:
    policy, batch = load_policy(pair.folder, CPU), pack(pair.groups())
    reference = policy.frozen_copy()
    with torch.no_grad():
        before = reference(batch)
        for parameter in policy.model.get_encoder().parameters():
            parameter.mul_(1.5)
        assert not torch.allclose(policy(batch), before, atol=1e-3)
        assert torch.equal(reference(batch), before)


def test_what_a_tokenizer_writes_before_a_target_is_forced(pair: Pair, tmp_path: Path) -> None:
    """Where the model's files force nothing: `generate` then begins as training does."""
    folder = shutil.copytree(pair.folder, tmp_path / "model")
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text())
    file.write_text(
        json.dumps({key: value for key, value in settings.items() if key != "forced_bos_token_id"})
    )
    assert opening_of(load_policy(str(folder), CPU).model) == opening_of(pair.theirs)


def test_a_saved_policy_generates_as_it_samples(pair: Pair, tmp_path: Path) -> None:
    """In transformers, with the tokens of the saved files alone: start, forced and end tokens."""
    save_policy(pair.policy, pair.tokenizer, tmp_path / "saved")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved").eval()
    prompt = pair.tokenizer(TEXTS[0])["input_ids"]
    assert greedy(model, prompt, 9) == draw(pair)[0][0].tokens
    assert opening_of(model) == opening_of(pair.theirs)


def test_a_score_is_read_at_the_decoders_last_state(pair: Pair, tmp_path: Path) -> None:
    """The state that has read prompt and completion; the saved folder gives it to transformers without prefloop."""
    scorer = new_reward_model(pair.folder, pair.tokenizer, CPU, seed=3)
    batch = pack(pair.groups())
    with torch.no_grad():
        scores = scorer(batch)
    save_classifier(scorer, pair.tokenizer, tmp_path / "reward")
    again = load_reward_model(str(tmp_path / "reward"), CPU)
    with torch.no_grad():
        assert torch.equal(again(batch), scores)
        torch.testing.assert_close(
            scorer.token_scores(batch).gather(1, scorer.completion_lengths(batch)[:, None] - 1)[:, 0], scores
        )
    trunk = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "reward").eval()
    head = again.model.get_parameter("score.weight")
    found = []
    for group in pair.groups():
        for completion in group.completions:
            read = trunk(
                input_ids=torch.tensor([group.prompt]),
                decoder_input_ids=torch.tensor([[*pair.opening, *completion]]),
                output_hidden_states=True,
            )
            found.append((read.decoder_hidden_states[-1][0, -1] @ head[0]).item())
    torch.testing.assert_close(scores, torch.tensor(found), atol=2e-6, rtol=0)
    with pytest.raises(InputError, match=r"score\.weight, which scores texts"):
        load_policy(str(tmp_path / "reward"), CPU)


@pytest.mark.parametrize("task", get_args(Task))
def test_lora_takes_the_usual_layers_or_all_linear_ones(pair: Pair, task: Task) -> None:
    names = ("q", "v") if len(pair.opening) == 1 else ("q_proj", "v_proj")
    for targets, layers in ((names, 2 * 6), ((), None)):
        policy = load_policy(pair.folder, CPU)
        role = policy if task == "CAUSAL_LM" else new_reward_model(pair.folder, pair.tokenizer, CPU, seed=0)
        peft = add_adapter(role.model, LoRA(rank=2, targets=targets), "policy", task=task, seed=0)
        adapted = {name for name, _ in peft.named_parameters() if ".lora_A." in name}
        assert not any("lm_head" in name or "score" in name for name in adapted)
        assert layers is None or len(adapted) == layers
        assert any("encoder" in name for name in adapted)
        assert any("decoder" in name for name in adapted)


def test_prompt_and_completion_count_positions_apart(pair: Pair) -> None:
    config = pair.theirs.config
    assert positions_needed(config, 60, 10) == 60
    assert positions_needed(config, 10, 60) == 62
    if len(pair.opening) == 2:
        ids = [2, *[5] * 70, 1]
        with pytest.raises(InputError, match="needs 72 positions; the model reads at most 64"):
            sample(
                pair.policy.model,
                [ids],
                k=1,
                stop_ids=[1],
                sampling=Sampling(max_new_tokens=9),
                seed=0,
                row_keys=[0],
            )


def test_chats_and_documents_are_refused(pair: Pair) -> None:
    chat = Prompt(content=(Message(role="user", content="red"),))
    with pytest.raises(InputError, match="reads plain texts, not chats; give the prompt as one text"):
        encode_prompt(pair.tokenizer, chat)
    with pytest.raises(InputError, match="documents train causal language models"):
        pretraining_blocks(pair.tokenizer, ["red blue"], 4)


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        (Compute(device="cpu", attention="packed"), "compute.attention is packed.*set it to auto or padded"),
        (Compute(device="cpu", quantize="nf4"), "compute.quantize is nf4.*is an encoder-decoder"),
        (Compute(device="cpu", shard="full"), "compute.shard is full.*is an encoder-decoder"),
    ],
)
def test_what_an_encoder_decoder_does_not_support_is_refused(compute: Compute, said: str, pair: Pair) -> None:
    with pytest.raises(InputError, match=said):
        load_policy(pair.folder, compute)


def test_an_engine_is_refused(pair: Pair, tmp_path: Path) -> None:
    world = World(rank=0, size=1, device=torch.device("cpu"))
    settings = OnlineSampling(engine="http://127.0.0.1:9")
    with pytest.raises(InputError, match="is an encoder-decoder, which engines do not draw from"):
        EngineSampler(settings, compute=CPU, out=tmp_path, tokenizer=pair.tokenizer, world=world)


def test_a_comparison_of_equal_texts_is_refused_as_for_other_models(pair: Pair) -> None:
    same = Comparison(prompt=Prompt(content="red"), chosen="one", rejected="one")
    with pytest.raises(InputError, match="the same tokens"):
        encode_all(pair.tokenizer, [same], max_prompt_tokens=9, max_completion_tokens=9)


def test_a_reference_of_another_kind_is_refused(pair: Pair) -> None:
    with pytest.raises(InputError, match="one is an encoder-decoder and the other is not"):
        check_same_tokens(pair.tokenizer, causal_tokenizer(), what="reference 'start'")
