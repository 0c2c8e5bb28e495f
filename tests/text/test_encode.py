"""Records to groups: the tokens trained are those a model sees and draws, no more and no less."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from prefloop.errors import InputError
from prefloop.records import (
    Comparison,
    Conversation,
    Demonstration,
    Label,
    Message,
    Prompt,
    Ranking,
    Score,
)
from prefloop.text.encode import (
    comparison_group,
    completions_group,
    decode_completion,
    decode_completions,
    demonstration_group,
    encode_all,
    encode_completion,
    encode_prompt,
    encode_prompts,
)
from prefloop.text.tokenizer import stop_token_ids
from tests.text.kinds import CHAT_KINDS, KINDS, build, control_ids, spell, token_id

EXACT_KINDS = tuple(kind for kind in KINDS if kind not in ("unigram", "qwen chatml", "qwen thinking"))
CONTROL_TEXTS = (
    "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<|im_start|>", "<|im_end|>", "<|eos|>", "<|bos|>", "<|pad|>", "<|user|>",
    "<|assistant|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>", "<end_of_turn>", "[gMASK]", "<sop>",
)  # fmt: skip
PIECES = (
    "a",
    "the cat",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "é",
    "e\u0301",
    "🙂",
    "日本",
    "42",
    ".",
    "'s",
    "<",
    "|>",
    "",
)
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES + CONTROL_TEXTS), st.text(st.characters(codec="utf-8"), max_size=5))).map(
    lambda pieces: "".join(pieces).replace("▁", "_")  # a SentencePiece vocabulary cannot tell that character from a space
)  # fmt: skip
CHAT = (
    Message(role="user", content="What is the capital?"),
    Message(role="assistant", content="It is Paris."),
    Message(role="user", content="And of the mat?"),
    Message(role="assistant", content="The cat."),
)


def text_prompt(text: str) -> Prompt:
    return Prompt(content=text)


def chat_prompt(*contents: str) -> Prompt:
    """User and assistant in turns, the user first."""
    roles = ("user", "assistant")
    return Prompt(content=tuple(Message(role=roles[n % 2], content=text) for n, text in enumerate(contents)))


def rendered(
    tokenizer: PreTrainedTokenizerFast, messages: tuple[Message, ...], *, generation: bool
) -> list[int]:
    """Tokens of a chat written and tokenised in one go, as an inference server does."""
    chat = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation)
    assert isinstance(text, str)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


# text prompts


@pytest.mark.parametrize("kind", EXACT_KINDS)
@settings(max_examples=40, deadline=None)
@given(prompt=TEXTS, completion=TEXTS)
def test_prompt_and_completion_spell_their_texts(kind, prompt, completion):  # D1
    tokenizer = build(kind)
    group = completions_group(tokenizer, text_prompt(prompt), [completion])
    (ids,) = group.completions
    start = list(encode_prompt(tokenizer, text_prompt("")))
    head = list(group.prompt)
    if head[: len(start)] == start:
        head = head[len(start) :]
    assert ids[-1] == tokenizer.eos_token_id
    spelled = spell(tokenizer, [*head, *ids[:-1]])
    wanted = (prompt + completion).encode()
    # these tokenizers write one space before a text, and take it away again when they decode
    prefixed = kind in ("gpt2 prefix space", "llama2", "llama2 zephyr", "mistral", "mistral zephyr")
    assert spelled == wanted or (prefixed and spelled == b" " + wanted)
    if prompt:
        assert spell(tokenizer, ids[:-1]) == completion.encode()


@pytest.mark.parametrize("kind", ["qwen chatml", "qwen thinking"])
@settings(max_examples=40, deadline=None)
@given(prompt=TEXTS, completion=TEXTS)
def test_a_normaliser_applies_to_each_text_alone(kind, prompt, completion):  # D1
    tokenizer = build(kind)
    (ids,) = completions_group(tokenizer, text_prompt(prompt), [completion]).completions
    spelled = spell(tokenizer, ids[:-1]).decode()
    assert unicodedata.normalize("NFC", spelled) == unicodedata.normalize("NFC", completion)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(prompt=TEXTS, completion=TEXTS)
def test_text_never_becomes_a_control_token(kind, prompt, completion):
    tokenizer = build(kind)
    group = completions_group(tokenizer, text_prompt(prompt), [completion])
    control = control_ids(tokenizer)
    start = int(tokenizer("a")["input_ids"][0] == token_id(tokenizer, tokenizer.bos_token))
    prompt_ids = list(group.prompt)[start:] if prompt else []
    assert control.isdisjoint(prompt_ids)
    assert control.isdisjoint(group.completions[0][:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_one_start_token(kind):  # D3
    tokenizer = build(kind)
    bos = token_id(tokenizer, tokenizer.bos_token)
    writes_start = tokenizer("a")["input_ids"][0] == bos
    for text in ("The cat", f"{tokenizer.bos_token}The cat", f"{tokenizer.eos_token}"):
        ids = encode_prompt(tokenizer, text_prompt(text))
        assert ids.count(bos) == int(writes_start)
        assert ids[: int(writes_start)] == [bos] * writes_start
    (only,) = encode_prompt(tokenizer, text_prompt(""))
    assert only == (bos if bos >= 0 else tokenizer.eos_token_id)


@pytest.mark.parametrize("kind", ["ours", "llama2", "llama3", "mistral", "gemma"])
def test_exactly_one_start_token_in_a_chat(kind):  # D3
    tokenizer = build(kind)
    ids = encode_prompt(tokenizer, chat_prompt(f"{tokenizer.bos_token} hi"))
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(ids[0]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_token_the_tokenizer_would_add_is_not_doubled(kind):  # D3
    tokenizer = build(kind)
    group = completions_group(tokenizer, text_prompt("The cat"), ["sat"])
    ids = [*group.prompt, *group.completions[0]]
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(ids[-1]) == 1


def test_a_tokenizer_that_ends_its_texts_does_not_end_our_prompts():  # D3
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build("ours").backend_tokenizer,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        add_bos_token=True,
        add_eos_token=True,
    )
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in encode_prompt(tokenizer, text_prompt("a"))
    ids = encode_completion(tokenizer, text_prompt("a"), "b")
    assert ids.count(token_id(tokenizer, "<|eos|>")) == 1


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "gpt2 prefix space"])
def test_eos_kept_when_pad_is_eos(kind):  # M1
    tokenizer = build(kind)
    assert tokenizer.pad_token_id in (tokenizer.eos_token_id, None)
    eos = tokenizer.eos_token_id
    records = [
        Demonstration(prompt=text_prompt("The cat"), completion=" sat"),
        Comparison(prompt=text_prompt("The cat"), chosen=" sat", rejected=" ran off"),
        Ranking(prompt=text_prompt("The cat"), completions=(" sat", " ran", " is")),
        Label(prompt=text_prompt("The cat"), completion=" sat", good=True),
        Score(prompt=text_prompt("The cat"), completion=" sat", value=1.0),
    ]
    for group in encode_all(tokenizer, records, max_prompt_tokens=50, max_completion_tokens=50).groups:
        for ids, mask in zip(group.completions, group.masks, strict=True):
            assert ids[-1] == eos
            assert all(mask)


def test_eos_kept_in_chats_when_pad_is_eos():  # M1
    tokenizer = build("llama2")
    group = demonstration_group(tokenizer, Conversation(messages=CHAT))
    places = [k for k, token in enumerate(group.completions[0]) if token == tokenizer.eos_token_id]
    assert len(places) == 2
    assert all(group.masks[0][k] for k in places)


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_completion_are_one_unshifted_row(kind):  # M5
    tokenizer = build(kind)
    group = completions_group(tokenizer, text_prompt("The cat"), [" sat on"])
    pieces = tokenizer("The cat sat on", add_special_tokens=True)["input_ids"]
    assert [*group.prompt, *group.completions[0]] == [*pieces, tokenizer.eos_token_id]
    assert [len(ids) for ids in group.completions] == [len(mask) for mask in group.masks]


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_of_a_comparison_hold_the_completion_only(kind):  # M4
    tokenizer = build(kind)
    prompt = text_prompt("The cat sat on the")
    group = comparison_group(
        tokenizer, Comparison(prompt=prompt, chosen=" mat.", rejected=" door and slept.")
    )
    assert list(group.prompt) == encode_prompt(tokenizer, prompt)
    for ids, text in zip(group.completions, (" mat.", " door and slept."), strict=True):
        assert spell(tokenizer, ids[:-1]) == text.encode()
        assert list(ids) == encode_completion(tokenizer, prompt, text)
    assert all(all(mask) for mask in group.masks)


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_that_did_not_end_has_no_stop_token(kind):
    tokenizer = build(kind)
    for prompt in (text_prompt("The cat"), chat_prompt("Hi")):
        if isinstance(prompt.content, tuple) and kind not in CHAT_KINDS:
            continue
        group = completions_group(tokenizer, prompt, [" sat on ", " sat on "], ended=[True, False])
        ended, cut = group.completions
        assert ended[-1] in stop_token_ids(tokenizer)
        assert set(stop_token_ids(tokenizer)).isdisjoint(cut)
        assert spell(tokenizer, cut).decode().endswith("sat on ")


@pytest.mark.parametrize("kind", EXACT_KINDS)
@settings(max_examples=25, deadline=None)
@given(text=TEXTS)
def test_decoding_gives_the_completion_back(kind, text):
    tokenizer = build(kind)
    prompt = text_prompt("The cat")
    assert decode_completion(tokenizer, encode_completion(tokenizer, prompt, text)) == text
    if text:
        assert decode_completion(tokenizer, encode_completion(tokenizer, prompt, text, ended=False)) == text


def test_decoding_shows_control_tokens_the_policy_drew():
    tokenizer = build("ours")
    user, end = (token_id(tokenizer, token) for token in ("<|user|>", "<|eos|>"))
    (cat,) = encode_prompt(tokenizer, text_prompt(" the"))[1:]
    assert decode_completions(tokenizer, [[cat, user, end], [end], [end, end], []]) == [
        " the<|user|>",
        "",
        "<|eos|>",
        "",
    ]


# chats


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_chat_prompt_is_what_a_server_would_write(kind):  # D2
    tokenizer = build(kind)
    assert encode_prompt(tokenizer, Prompt(content=CHAT[:3])) == rendered(
        tokenizer, CHAT[:3], generation=True
    )


@pytest.mark.parametrize(
    "kind", ["ours", "qwen chatml", "llama3", "llama2 zephyr", "llama2", "glm", "added chatml"]
)
def test_system_turns_are_written(kind):
    tokenizer = build(kind)
    messages = (Message(role="system", content="Be kind."), *CHAT[:1])
    ids = encode_prompt(tokenizer, Prompt(content=messages))
    assert ids == rendered(tokenizer, messages, generation=True)
    assert "Be kind." in tokenizer.decode(ids)


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_chat_completion_ends_with_the_stop_token_and_nothing_after(kind):  # M2
    tokenizer = build(kind)
    group = completions_group(tokenizer, chat_prompt("Hi"), ["Hello there."])
    (ids,), (mask,) = group.completions, group.masks
    stop = stop_token_ids(tokenizer)[-1]
    assert ids[-1] == stop
    assert list(ids).count(stop) == 1
    assert all(mask)
    assert (
        spell(tokenizer, ids[:-1]).decode().strip().removeprefix("<think>\n\n</think>\n\n") == "Hello there."
    )


@pytest.mark.parametrize("kind", [kind for kind in CHAT_KINDS if kind not in ("qwen thinking", "unigram")])
def test_conversation_trains_each_turn_with_its_stop_token_and_nothing_else(kind):  # M2
    tokenizer = build(kind)
    group = demonstration_group(tokenizer, Conversation(messages=CHAT))
    (ids,), (mask,) = group.completions, group.masks
    runs, run = [], []
    for token, trained in zip([*ids, 0], [*mask, False], strict=True):
        if trained:
            run.append(token)
        elif run:
            runs.append(run)
            run = []
    assert [spell(tokenizer, run[:-1]).decode().strip() for run in runs] == ["It is Paris.", "The cat."]
    assert all(run[-1] == stop_token_ids(tokenizer)[-1] for run in runs)
    assert mask[0]
    assert mask[-1]


@pytest.mark.parametrize("kind", [kind for kind in CHAT_KINDS if kind not in ("qwen thinking", "unigram")])
def test_each_turn_follows_the_tokens_inference_would_give_the_model(kind):  # D2
    tokenizer = build(kind)
    group = demonstration_group(tokenizer, Conversation(messages=CHAT))
    row, mask = [*group.prompt, *group.completions[0]], [*[False] * len(group.prompt), *group.masks[0]]
    starts = [k for k in range(1, len(row)) if mask[k] and not mask[k - 1]]
    assert [row[:start] for start in starts] == [
        rendered(tokenizer, CHAT[:turn], generation=True) for turn in (1, 3)
    ]
    alone = [encode_completion(tokenizer, Prompt(content=CHAT[:turn]), CHAT[turn].content) for turn in (1, 3)]
    assert [row[start : start + len(ids)] for start, ids in zip(starts, alone, strict=True)] == alone


def test_conversation_worked_by_hand():
    tokenizer = build("ours")
    messages = (
        Message(role="system", content="a"),
        Message(role="user", content="b"),
        Message(role="assistant", content="c"),
        Message(role="user", content="d"),
        Message(role="assistant", content="e"),
        Message(role="user", content="never trained, never in the row"),
    )
    group = demonstration_group(tokenizer, Conversation(messages=messages))
    assert tokenizer.convert_ids_to_tokens(list(group.prompt)) == [
        "<|bos|>",
        "<|system|>",
        "a",
        "<|user|>",
        "b",
        "<|assistant|>",
    ]
    assert tokenizer.convert_ids_to_tokens(list(group.completions[0])) == [
        "c",
        "<|eos|>",
        "<|user|>",
        "d",
        "<|assistant|>",
        "e",
        "<|eos|>",
    ]
    assert list(group.masks[0]) == [True, True, False, False, False, True, True]


@pytest.mark.parametrize("kind", CHAT_KINDS)
@settings(max_examples=15, deadline=None)
@given(user=TEXTS, assistant=TEXTS)
def test_chat_contents_never_become_control_tokens(kind, user, assistant):
    tokenizer = build(kind)
    plain = completions_group(tokenizer, chat_prompt("x"), ["x"])
    group = completions_group(tokenizer, chat_prompt(user), [assistant])
    control = control_ids(tokenizer)

    def controls(ids):
        return [token for token in ids if token in control]

    assert controls(group.prompt) == controls(plain.prompt)
    assert controls(group.completions[0]) == controls(plain.completions[0])


def test_text_that_a_normaliser_turns_into_a_control_token_is_refused():
    tokenizer = build("unigram")
    wide = "＜s＞"  # compatibility characters, which this tokenizer reads as <s>
    assert token_id(tokenizer, "<s>") in tokenizer(wide, split_special_tokens=True)["input_ids"]
    with pytest.raises(InputError, match="the completion '＜s＞' cannot be written by this tokenizer"):
        completions_group(tokenizer, text_prompt("a"), [wide])
    with pytest.raises(InputError, match="the prompt '＜s＞' cannot be written by this tokenizer"):
        encode_prompt(tokenizer, text_prompt(wide))


def test_control_text_in_other_turns_stays_text():
    tokenizer = build("ours")
    messages = tuple(
        Message(role=message.role, content=message.content + "<|eos|><|assistant|>") for message in CHAT
    )
    group = demonstration_group(tokenizer, Conversation(messages=messages))
    tokens = tokenizer.convert_ids_to_tokens([*group.prompt, *group.completions[0]])
    special = [token for token in tokens if token in tokenizer.all_special_tokens]
    assert special == ["<|bos|>", *["<|user|>", "<|assistant|>", "<|eos|>"] * 2]
    assert tokenizer.decode(list(group.completions[0])).count("<|eos|><|assistant|>") == 3


def test_template_that_rewrites_earlier_turns_is_refused():
    tokenizer = build("qwen thinking")
    with pytest.raises(
        InputError,
        match=r"writes message 2 differently once the chat has gone on.*one record per assistant turn",
    ):
        demonstration_group(tokenizer, Conversation(messages=CHAT))
    # the way out that the error names
    record = Demonstration(prompt=Prompt(content=CHAT[:3]), completion="The cat.")
    group = demonstration_group(tokenizer, record)
    assert list(group.prompt) == rendered(tokenizer, CHAT[:3], generation=True)
    assert [*group.prompt, *group.completions[0]] == rendered(tokenizer, CHAT, generation=False)[
        : group.tokens
    ]


def test_thinking_is_trained_as_it_was_said():
    tokenizer = build("qwen thinking")
    said = "<think>\nParis, surely.\n</think>\n\nParis."
    ids = encode_completion(tokenizer, chat_prompt("What?"), said)
    assert tokenizer.decode(ids[:-1]) == said
    assert (
        tokenizer.convert_tokens_to_ids("<think>") == ids[0]
    )  # an ordinary added token, which the model does say
    odd = "<think>no line breaks</think>Paris."  # the template lays it out anew
    laid_out = "<think>\nno line breaks\n</think>\n\nParis."
    assert decode_completion(tokenizer, encode_completion(tokenizer, chat_prompt("What?"), odd)) == laid_out
    plain = encode_completion(tokenizer, chat_prompt("What?"), "Paris.")
    assert tokenizer.decode(plain[:-1]) == "<think>\n\n</think>\n\nParis."
    assert encode_completion(tokenizer, chat_prompt("What?"), decode_completion(tokenizer, plain)) == plain


def test_conversation_without_stop_tokens_between_turns_is_refused():  # M2
    with pytest.raises(InputError, match="writes no token after an assistant's turn"):
        demonstration_group(build("unigram"), Conversation(messages=CHAT))
    single = demonstration_group(build("unigram"), Conversation(messages=CHAT[:2]))
    assert single.completions[0][-1] == build("unigram").eos_token_id


def test_nothing_to_train_on_is_an_error():  # M6
    tokenizer = build("ours")
    with pytest.raises(InputError, match="has no assistant turn, so nothing to train on"):
        demonstration_group(tokenizer, Conversation(messages=CHAT[:1]))
    with pytest.raises(InputError, match="the completion is empty and did not end"):
        completions_group(tokenizer, text_prompt("a"), ["fine", ""], ended=False)
    with pytest.raises(InputError, match=r"a.jsonl:7: the conversation has no assistant turn"):
        encode_all(
            tokenizer,
            [Conversation(messages=CHAT[:1], origin="a.jsonl:7")],
            max_prompt_tokens=9,
            max_completion_tokens=9,
        )
    assert list(completions_group(tokenizer, text_prompt("a"), [""]).completions[0]) == [
        tokenizer.eos_token_id
    ]


# budgets and bad records

LONG = [
    Demonstration(prompt=text_prompt("a b"), completion=" c", origin="d.jsonl:1"),
    Demonstration(prompt=text_prompt("a b c d e f g h"), completion=" c", origin="d.jsonl:2"),
    Demonstration(prompt=text_prompt("a"), completion=" b c d e f g h", origin="d.jsonl:3"),
]


def test_overlong_records_stop_with_their_place_and_size():  # D4
    tokenizer = build("ours")
    prompt_tokens = len(encode_prompt(tokenizer, LONG[1].prompt))
    with pytest.raises(InputError) as caught:
        encode_all(tokenizer, LONG, max_prompt_tokens=5, max_completion_tokens=5)
    message = str(caught.value)
    assert message.startswith(
        f"d.jsonl:2: the prompt has {prompt_tokens} tokens, above max_prompt_tokens = 5; "
    )
    assert "set overlong to drop or truncate (and 1 more like it)" in message
    with pytest.raises(
        InputError, match=r"d.jsonl:3: a completion has \d+ tokens, above max_completion_tokens = 5"
    ):
        encode_all(tokenizer, LONG, max_prompt_tokens=50, max_completion_tokens=5)


def test_dropped_records_are_counted_and_named():  # D4 D5
    encoded = encode_all(build("ours"), LONG, max_prompt_tokens=5, max_completion_tokens=5, overlong="drop")
    assert encoded.kept == [0]
    assert [entry.split(": ")[0] for entry in encoded.dropped] == ["d.jsonl:2", "d.jsonl:3"]
    assert encoded.describe().startswith("kept 1 of 3, dropped 2 (d.jsonl:2: the prompt has ")


def test_truncation_keeps_the_prompts_end_and_the_completions_start():  # D4
    tokenizer = build("ours")
    encoded = encode_all(tokenizer, LONG, max_prompt_tokens=5, max_completion_tokens=5, overlong="truncate")
    assert encoded.kept == [0, 1, 2]
    assert [entry.split(": ")[0] for entry in encoded.truncated] == ["d.jsonl:2", "d.jsonl:3"]
    whole, cut_prompt, cut_completion = encoded.groups
    assert whole.completions[0][-1] == tokenizer.eos_token_id
    assert list(cut_prompt.prompt) == [tokenizer.bos_token_id, *encode_prompt(tokenizer, LONG[1].prompt)[-4:]]
    full = encode_completion(tokenizer, LONG[2].prompt, LONG[2].completion)
    assert list(cut_completion.completions[0]) == full[:5]
    assert tokenizer.eos_token_id not in cut_completion.completions[0]
    assert len(cut_completion.masks[0]) == 5


@pytest.mark.parametrize("kind", ["ours", "gpt2", "llama3"])
@settings(max_examples=30, deadline=None)
@given(
    st.text(alphabet="abc de", min_size=1, max_size=30),
    st.text(alphabet="abc de", max_size=30),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_truncation_stays_within_any_budget(kind, prompt, completion, max_prompt, max_completion):  # D4
    tokenizer = build(kind)
    record = Demonstration(prompt=text_prompt(prompt), completion=completion)
    whole = demonstration_group(tokenizer, record)
    encoded = encode_all(
        tokenizer,
        [record],
        max_prompt_tokens=max_prompt,
        max_completion_tokens=max_completion,
        overlong="truncate",
    )
    (group,) = encoded.groups
    assert len(group.prompt) == min(max_prompt, len(whole.prompt))
    assert group.prompt[-1] == whole.prompt[-1]
    assert list(group.completions[0]) == list(whole.completions[0])[:max_completion]
    assert any(group.masks[0])
    assert bool(encoded.truncated) == (group.tokens < whole.tokens)


def test_a_comparison_that_differs_only_in_what_is_cut_is_dropped():  # D4
    tokenizer = build("ours")
    record = Comparison(prompt=text_prompt("a"), chosen=" b c d e f", rejected=" b c d e g", origin="c:1")
    other = Comparison(prompt=text_prompt("a"), chosen=" b", rejected=" c", origin="c:2")
    encoded = encode_all(
        tokenizer, [record, other], max_prompt_tokens=5, max_completion_tokens=3, overlong="truncate"
    )
    assert encoded.kept == [1]
    assert encoded.dropped[0].endswith("its completions are the same once truncated")


def test_chosen_and_rejected_that_a_template_makes_equal_are_refused():
    tokenizer = build("gemma")
    same = Comparison(prompt=chat_prompt("Hi"), chosen="Hello", rejected="Hello \n", origin="c:1")
    with pytest.raises(InputError, match="chosen and rejected are the same tokens"):
        comparison_group(tokenizer, same)
    assert comparison_group(build("qwen chatml"), same)


def test_bad_records_are_all_counted_or_skipped():
    tokenizer = build("gpt2")
    records = [
        Demonstration(prompt=text_prompt("a"), completion="b", origin="d:1"),
        Demonstration(prompt=chat_prompt("a"), completion="b", origin="d:2"),
        Demonstration(prompt=text_prompt("a\ud800"), completion="b", origin="d:3"),
        Demonstration(prompt=text_prompt("a"), completion="\udfffb", origin="d:4"),
    ]
    with pytest.raises(InputError, match=r"d:2: the tokenizer '' has no chat template.*and 2 more like it"):
        encode_all(tokenizer, records, max_prompt_tokens=9, max_completion_tokens=9)
    encoded = encode_all(tokenizer, records, max_prompt_tokens=9, max_completion_tokens=9, skip_bad=True)
    assert encoded.kept == [0]
    assert encoded.bad[1].startswith("d:3: the prompt has a broken character at position 1")
    assert encoded.bad[2].startswith("d:4: the completion has a broken character at position 0")
    with pytest.raises(InputError, match="none of 3 records is left: d:2"):
        encode_all(tokenizer, records[1:], max_prompt_tokens=9, max_completion_tokens=9, skip_bad=True)
    assert encode_all(tokenizer, [], max_prompt_tokens=9, max_completion_tokens=9).groups == []


def test_characters_a_tokenizer_does_not_know_are_reported():
    records = [
        Demonstration(prompt=text_prompt("a"), completion="the cat", origin="d:1"),
        Demonstration(prompt=text_prompt("a"), completion="the ☃", origin="d:2"),
    ]
    encoded = encode_all(build("unigram"), records, max_prompt_tokens=30, max_completion_tokens=30)
    assert encoded.kept == [0, 1]
    assert [entry.split(": ")[0] for entry in encoded.altered] == ["d:2"]
    assert build("unigram").unk_token_id in encoded.groups[1].completions[0]
    exact = encode_all(build("ours"), records, max_prompt_tokens=30, max_completion_tokens=30)
    assert exact.altered == ()


@pytest.mark.parametrize("kind", KINDS)
def test_batches_give_what_single_records_give(kind):
    tokenizer = build(kind)
    records = [
        Demonstration(prompt=text_prompt("The cat"), completion=" sat </s>."),
        Comparison(prompt=text_prompt("<|im_end|>"), chosen="yes", rejected="no"),
        Label(prompt=text_prompt(""), completion="The mat", good=False),
    ]
    if kind in CHAT_KINDS:
        records += [
            Conversation(messages=CHAT[:2]),
            Comparison(prompt=chat_prompt("Hi"), chosen="Hello.", rejected="Go <|im_end|> away"),
        ]
    encoded = encode_all(tokenizer, records, max_prompt_tokens=99, max_completion_tokens=99)
    assert encoded.kept == list(range(len(records)))
    single = [
        encode_all(tokenizer, [record], max_prompt_tokens=99, max_completion_tokens=99).groups[0]
        for record in records
    ]
    assert encoded.groups == single


def test_prompts_are_encoded_under_the_same_rules():
    tokenizer = build("ours")
    prompts = [record.prompt for record in LONG]
    encoded = encode_prompts(tokenizer, prompts, max_prompt_tokens=50)
    assert encoded.prompts == [encode_prompt(tokenizer, prompt) for prompt in prompts]
    with pytest.raises(InputError, match="prompt 2: the prompt has"):
        encode_prompts(tokenizer, prompts, max_prompt_tokens=5)
    assert encode_prompts(tokenizer, prompts, max_prompt_tokens=5, overlong="drop").kept == [0, 2]
    cut = encode_prompts(tokenizer, prompts, max_prompt_tokens=5, overlong="truncate")
    assert [len(ids) for ids in cut.prompts] == [3, 5, 2]
    assert all(ids[0] == tokenizer.bos_token_id for ids in cut.prompts)
