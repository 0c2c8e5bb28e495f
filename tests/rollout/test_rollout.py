import pytest

from prefloop.configs.common import Sampling
from prefloop.records import Message, Prompt
from prefloop.rollout import Rollout, Sampled, make_rollout, score
from tests.text.kinds import build, token_id

PROMPTS = [Prompt(content="say a"), Prompt(content="say b")]
IDS = [[7, 8], [9]]
SAMPLES = [
    [
        Sampled(tokens=[3, 4, 2], logprobs=[-1.0, -0.5, -0.25], ended=True),
        Sampled(tokens=[2], logprobs=[-3.0], ended=True),
    ],
    [
        Sampled(tokens=[5, 5], logprobs=[-0.5, -0.5], ended=False),
        Sampled(tokens=[6], logprobs=[-1], ended=False),
    ],
]


def decode(ids) -> str:  # pyright: ignore[reportMissingParameterType]
    """A tokenizer whose text does not give the same ids again: 3 and 4 make one letter."""
    return "".join({3: "x", 4: "", 5: "y", 6: "z", 2: ""}[token] for token in ids)


def rollout() -> Rollout:
    return make_rollout(PROMPTS, IDS, SAMPLES, decode)


def test_ids_to_train_on_are_those_sampled():  # D2
    made = rollout()
    assert [group.prompt for group in made.groups] == IDS
    assert [group.completions for group in made.groups] == [([3, 4, 2], [2]), ([5, 5], [6])]
    assert [group.masks for group in made.groups] == [([True] * 3, [True]), ([True] * 2, [True])]
    assert made.texts == [["x", ""], ["yy", "z"]]
    assert made.ended == [[True, True], [False, False]]
    assert made.sampler_logprobs == [[[-1.0, -0.5, -0.25], [-3.0]], [[-0.5, -0.5], [-1]]]


def test_prompts_that_are_picked_or_joined_keep_all_that_is_theirs():
    made = rollout()
    second, first = made.take([1]), made.take([0])
    assert made.take([1, 0]) == second.join(first)
    assert second == make_rollout(PROMPTS[1:], IDS[1:], SAMPLES[1:], decode)
    halves = [
        make_rollout(PROMPTS, IDS, [drawn[part] for drawn in SAMPLES], decode)
        for part in (slice(0, 1), slice(1, 2))
    ]
    assert halves[0].beside(halves[1]) == made


def test_a_judge_with_other_tokens_reads_an_end_only_where_there_was_one():  # M14
    policy, judge = build("added chatml"), build("unigram")
    end = token_id(policy, "<|endoftext|>")
    drawn = [
        Sampled(tokens=[5, end], logprobs=[0.0, 0.0], ended=True),
        Sampled(tokens=[5], logprobs=[0.0], ended=False),
    ]
    made = make_rollout([Prompt(content="Hi")], [[7]], [drawn], lambda ids: "hello")
    (read,) = made.groups_for(judge, policy=policy)
    stop = token_id(judge, "</s>")
    assert read.completions[0] == [*read.completions[1], stop]
    assert stop not in read.completions[1]


def test_a_judge_reads_the_stop_token_it_was_trained_with():  # M14
    """A policy may stop by any of several tokens; the ids to train on stay those that were drawn."""
    tokenizer = build("added chatml")
    end, turn = (token_id(tokenizer, token) for token in ("<|endoftext|>", "<|im_end|>"))
    drawn = [Sampled(tokens=[5, stop], logprobs=[0.0, 0.0], ended=True) for stop in (end, turn)]
    drawn.append(Sampled(tokens=[5, 6], logprobs=[0.0, 0.0], ended=False))
    prompts = [Prompt(content=(Message(role="user", content="Hi"),)), Prompt(content="Hi")]
    made = make_rollout(prompts, IDS, [drawn, drawn], lambda ids: "")
    chat, text = made.groups_for(tokenizer, policy=tokenizer)
    assert chat.completions == ([5, turn], [5, turn], [5, 6])
    assert text.completions == ([5, end], [5, end], [5, 6])
    assert made.groups[0].completions == ([5, end], [5, turn], [5, 6])


def test_scores_come_back_by_prompt():  # C8
    def scorer(prompts, completions) -> list[float]:  # pyright: ignore[reportMissingParameterType]
        assert [prompt.content for prompt in prompts] == ["say a", "say a", "say b", "say b"]
        return [0.0, 1, -2.5, len(completions[3])]

    assert score(scorer, rollout()) == [[0.0, 1.0], [-2.5, 1.0]]


def test_scorers_never_see_the_prompt_inside_a_completion():  # D9
    seen: list[str] = []

    def scorer(prompts, completions) -> list[float]:  # pyright: ignore[reportMissingParameterType]
        seen.extend(completions)
        return [0.0] * len(completions)

    score(scorer, rollout())
    assert seen == ["x", "", "yy", "z"]


def test_values_of_the_wrong_number_cannot_be_put_by_prompt():
    with pytest.raises(ValueError, match="there are 4 completions but 3 values"):
        rollout().by_prompt([1, 2, 3])


def test_records_for_the_store_know_where_they_come_from():
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=5)
    records = list(rollout().completions(policy="runs/sft/last", sampling=sampling, seed=4))
    assert [record.logprob for record in records] == [-1.75, -3.0, -1.0, -1]
    assert [record.tokens for record in records] == [3, 1, 2, 1]
    assert [record.index for record in records] == [0, 1, 0, 1]
    first = records[0]
    assert (first.prompt, first.text, first.ended, first.policy) == (PROMPTS[0], "x", True, "runs/sft/last")
    assert (first.temperature, first.top_p, first.top_k, first.seed) == (0.7, 0.9, 5, 4)
