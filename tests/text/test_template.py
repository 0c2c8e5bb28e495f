"""What tokenizers and their templates write around text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from prefloop.errors import InputError
from prefloop.records import Message, Prompt
from prefloop.text.chat import BREAK, escape
from prefloop.text.encode import completions_group, encode_prompt
from prefloop.text.template import AssistantTurn, conventions
from tests.text.kinds import CHATML, LLAMA2, NO_GENERATION_PROMPT, build

HI = Prompt(content=(Message(role="user", content="Hi"),))


def _with_template(template: str) -> PreTrainedTokenizerFast:
    plain = build("qwen chatml")
    return PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, eos_token="<|im_end|>", chat_template=template
    )


@pytest.mark.parametrize(
    ("kind", "prefix", "suffix", "stop", "written"),
    [
        ("ours", "", "", "<|eos|>", True),
        ("qwen chatml", "", "", "<|im_end|>", True),
        ("qwen thinking", "<think>\n\n</think>\n\n", "", "<|im_end|>", True),
        ("llama2", " ", " ", "</s>", True),
        ("llama2 zephyr", "", "", "</s>", True),
        ("llama3", "", "", "<|eot_id|>", True),
        ("gemma", "", "", "<end_of_turn>", True),
        ("glm", "", "", "<|user|>", False),
        ("unigram", " ", "", "", False),
    ],
)
def test_the_parts_of_a_turn_are_found(kind, prefix, suffix, stop, written):
    turn = conventions(build(kind)).turn
    assert isinstance(turn, AssistantTurn)
    assert (turn.prefix, turn.suffix, turn.stop_text, turn.written) == (prefix, suffix, stop, written)


@pytest.mark.parametrize(
    ("kind", "start", "empty"),
    [
        ("ours", ["<|bos|>"], ["<|bos|>"]),
        ("gpt2", [], ["<|endoftext|>"]),
        ("qwen chatml", [], ["<|im_end|>"]),
        ("llama2", ["<s>"], ["<s>"]),
        ("unigram", [], ["<s>"]),
    ],
)
def test_what_a_tokenizer_writes_before_a_text(kind, start, empty):
    tokenizer = build(kind)
    known = conventions(tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(known.start)) == start
    assert tokenizer.convert_ids_to_tokens(list(known.empty)) == empty


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template.*give prompts as plain text, or set chat_template"),
        (NO_GENERATION_PROMPT, "not when asked for a generation prompt.*respects add_generation_prompt"),
        (CHATML.replace("{{ message.content }}", "..."), "leaves out the user message 'Hi'"),
        ("{{ raise_exception('not today') }}", "the chat template refuses a chat of user: not today"),
        ("{{ messages[0].content.nothing() }}", "the chat template refuses a chat"),
    ],
)
def test_templates_that_cannot_prompt_the_assistant_are_refused(template, message):
    with pytest.raises(InputError, match=message):
        encode_prompt(_with_template(template), HI)
    with pytest.raises(InputError, match=message):
        completions_group(_with_template(template), HI, ["Hello"], origin="drawn")
    # such a tokenizer still serves plain text
    assert encode_prompt(_with_template(template), Prompt(content="Hi"))


def test_a_template_that_betrays_its_prompt_on_one_chat_only():
    sly = CHATML.replace("assistant\n", "assistant{% if messages | length > 1 %}!{% endif %}\n")
    tokenizer = _with_template(sly)
    assert completions_group(tokenizer, HI, ["Hello"])
    longer = Prompt(content=(Message(role="system", content="Be kind."), Message(role="user", content="Hi")))
    with pytest.raises(InputError, match=r"prompts the assistant with text ending in .*assistant!' but"):
        completions_group(tokenizer, longer, ["Hello"])


def test_roles_a_template_refuses_are_named():
    system = Prompt(content=(Message(role="system", content="s"), Message(role="user", content="u")))
    with pytest.raises(InputError, match="refuses a chat of system, user: System role not supported"):
        encode_prompt(build("gemma"), system)
    twice = Prompt(content=(Message(role="user", content="u"), Message(role="user", content="u")))
    with pytest.raises(InputError, match="roles must alternate"):
        encode_prompt(build("mistral"), twice)
    with pytest.raises(InputError, match="has no message before the assistant's"):
        encode_prompt(build("ours"), Prompt(content=()))


def test_conventions_follow_a_new_template():
    tokenizer = _with_template(CHATML)
    assert conventions(tokenizer) is conventions(tokenizer)
    tokenizer.chat_template = LLAMA2.replace("bos_token + ", "")
    turn = conventions(tokenizer).turn
    assert isinstance(turn, AssistantTurn)
    assert (turn.prefix, turn.suffix) == (" ", " ")


@given(
    st.lists(st.sampled_from(["<", "<|im_end|>", "<|im_start|>", "|im_end|>", "é", " ", "im"])).map("".join)
)
def test_escaped_text_has_no_control_token_and_comes_back(text):
    control = conventions(build("qwen chatml")).control
    escaped = escape(text, control)
    assert escaped.replace(BREAK, "") == text
    assert not any(control.search(piece) for piece in escaped.split(BREAK))
    assert (BREAK in escaped) == (control.search(text) is not None)
