"""Templates that write thoughts: what is trained is what the template writes for the finished chat, or the row is refused.

Each shape is a template of our own. What should be trained is read off the template by asking transformers for the
finished chat.
"""

import pytest
from transformers import PreTrainedTokenizerFast

from prefloop.errors import InputError
from prefloop.records import Comparison, Conversation, Demonstration, Message, Prompt
from prefloop.text import (
    completions_group,
    decode_completion,
    demonstration_group,
    encode_all,
    encode_prompt,
    encode_prompts,
    stop_token_ids,
)
from tests.text.kinds import build, read

ASK = Message(role="user", content="What?")
PROMPT = Prompt(content=(ASK,))
PLAIN = "Paris."
THOUGHT = "<think>\nParis, surely.\n</think>\n\nParis."
CLOSED = "Paris, surely.\n</think>\n\nParis."
"""What a policy says where the prompt has opened the thought."""

_SPLIT = """{%- set thought, said = '', message.content %}
{%- if '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip() %}
{%- set said = said.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- if message.reasoning_content %}{% set thought = message.reasoning_content %}{% endif %}"""


def _template(turn: str, prompt: str = "", *, top: str = "") -> str:
    """ChatML whose assistant's turn is written by `turn`, and whose generation prompt ends in `prompt`."""
    return f"""{top}{{%- for message in messages %}}
{{{{- '<|im_start|>' + message.role + '\\n' }}}}
{{%- if message.role == 'assistant' %}}
{turn}
{{%- else %}}{{{{ message.content }}}}{{% endif %}}
{{{{- '<|im_end|>\\n' }}}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n' }}}}{prompt}{{% endif %}}"""


_ALWAYS = _SPLIT + "{{- '<think>\\n' + thought + '\\n</think>\\n\\n' + said }}"
_OPEN, _EMPTY = "{{ '<think>\\n' }}", "{{ '<think>\\n\\n</think>\\n\\n' }}"
_SWITCH = (
    f"{{% if enable_thinking is defined and not enable_thinking %}}{_EMPTY}{{% else %}}{_OPEN}{{% endif %}}"
)

SHAPES = {
    "kept as it is": _template("{{- message.content }}"),
    "always a thought": _template(_ALWAYS),
    "a thought where there is one": _template(
        _SPLIT + "{{- ('<think>\\n' + thought + '\\n</think>\\n\\n' if thought else '') + said }}"
    ),
    "thought dropped": _template(_SPLIT + "{{- said }}"),
    "tag in prompt": _template(_ALWAYS, _OPEN),
    "tag in prompt, kept as it is": _template("{{- message.content }}", _OPEN),
    "tag in prompt, thought dropped": _template(_SPLIT + "{{- said }}", _OPEN),
    "tag in prompt, line break lost": _template(
        _SPLIT + "{{- '<think>' + thought + '</think>' + said }}", _OPEN
    ),
    "tag in prompt, empty thought closed": _template(
        _SPLIT
        + "{{- ('<think>\\n' + thought + '\\n</think>\\n\\n' if thought else '<think></think>') + said }}",
        _OPEN,
    ),
    "closed thought in prompt": _template(_ALWAYS, _EMPTY),
    "closed thought in prompt, not written": _template(_SPLIT + "{{- said }}", _EMPTY),
    "switched off": _template(_ALWAYS, _SWITCH, top="{%- set enable_thinking = false %}\n"),
    "switched on": _template(_ALWAYS, _SWITCH),
    "trimmed": _template("{{- message.content | trim }}"),
    "last turn trimmed": _template(
        "{{- (message.content | trim if loop.last else message.content) }}",
    ),
}
DIFFERENT, LEFT_OUT = "writes this turn differently", "leaves out or rewrites part of the answer"
TABLE = [
    # shape, completion, what is trained or why not
    ("kept as it is", PLAIN, PLAIN),
    ("kept as it is", THOUGHT, THOUGHT),
    ("always a thought", PLAIN, f"<think>\n\n</think>\n\n{PLAIN}"),
    ("always a thought", THOUGHT, THOUGHT),
    ("always a thought", "<think>Paris, surely.</think>Paris.", THOUGHT),
    ("always a thought", "a </think> b </think> c", LEFT_OUT),
    ("a thought where there is one", PLAIN, PLAIN),
    ("a thought where there is one", THOUGHT, THOUGHT),
    ("thought dropped", PLAIN, PLAIN),
    ("thought dropped", THOUGHT, LEFT_OUT),
    ("tag in prompt", PLAIN, f"\n</think>\n\n{PLAIN}"),
    ("tag in prompt", THOUGHT, CLOSED),
    ("tag in prompt", CLOSED, CLOSED),
    ("tag in prompt, kept as it is", PLAIN, DIFFERENT),
    ("tag in prompt, kept as it is", THOUGHT, CLOSED),
    ("tag in prompt, thought dropped", PLAIN, DIFFERENT),
    ("tag in prompt, thought dropped", THOUGHT, DIFFERENT),
    ("tag in prompt, line break lost", PLAIN, DIFFERENT),
    ("tag in prompt, line break lost", THOUGHT, DIFFERENT),
    ("tag in prompt, empty thought closed", PLAIN, DIFFERENT),
    ("tag in prompt, empty thought closed", THOUGHT, CLOSED),
    ("closed thought in prompt", PLAIN, PLAIN),
    ("closed thought in prompt", THOUGHT, DIFFERENT),
    ("closed thought in prompt, not written", PLAIN, DIFFERENT),
    ("closed thought in prompt, not written", THOUGHT, DIFFERENT),
    ("switched off", PLAIN, PLAIN),
    ("switched off", THOUGHT, DIFFERENT),
    ("switched on", PLAIN, f"\n</think>\n\n{PLAIN}"),
    ("switched on", THOUGHT, CLOSED),
    ("trimmed", "  Paris.\n\n", PLAIN),
    ("last turn trimmed", "  Paris.\n\n", PLAIN),
]


def _tokenizer(shape: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build("qwen chatml").backend_tokenizer, eos_token="<|im_end|>"
    )
    tokenizer.chat_template = SHAPES[shape]
    return tokenizer


def _rendered(tokenizer: PreTrainedTokenizerFast, *messages: Message, generation: bool = False) -> str:
    chat = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize(("shape", "said", "expected"), TABLE)
def test_the_templates_own_text_is_trained_or_the_row_refused(shape, said, expected):  # D12
    tokenizer = _tokenizer(shape)
    record = Demonstration(prompt=PROMPT, completion=said, origin="a.jsonl:1")
    if expected in (DIFFERENT, LEFT_OUT):
        with pytest.raises(InputError, match=expected):
            encode_all(tokenizer, [record], max_prompt_tokens=99, max_completion_tokens=99)
        return
    whole = _rendered(tokenizer, ASK, Message(role="assistant", content=said))
    prompt = _rendered(tokenizer, ASK, generation=True)
    assert whole == f"{prompt}{expected}<|im_end|>\n"
    group = demonstration_group(tokenizer, record)
    (ids,) = group.completions
    assert list(group.prompt) == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert read(tokenizer, [*group.prompt, *ids]) + "\n" == whole
    assert read(tokenizer, ids) == f"{expected}<|im_end|>"


@pytest.mark.parametrize("shape", list(SHAPES))
def test_every_shape_serves_generation(shape):
    tokenizer = _tokenizer(shape)
    prompt = _rendered(tokenizer, ASK, generation=True)
    assert read(tokenizer, encode_prompt(tokenizer, PROMPT)) == prompt
    assert encode_prompts(tokenizer, [PROMPT], max_prompt_tokens=99).kept == [0]
    assert tokenizer.convert_ids_to_tokens(list(stop_token_ids(tokenizer))) == ["<|im_end|>"]


@pytest.mark.parametrize(
    ("shape", "said"), [(shape, said) for shape, said, expected in TABLE if expected in (DIFFERENT, LEFT_OUT)]
)
def test_what_a_policy_drew_is_scored_even_where_it_could_not_be_trained(shape, said):
    tokenizer = _tokenizer(shape)
    group = completions_group(tokenizer, PROMPT, [said, said], ended=[True, False], origin="drawn")
    ended, cut = group.completions
    assert decode_completion(tokenizer, ended) == said
    assert list(ended) == [*cut, tokenizer.eos_token_id]


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_drawn_answer_that_was_cut_is_what_was_drawn(shape):
    tokenizer = _tokenizer(shape)
    for said in ("<think>\nParis, su", "Paris, su", "Paris, surely.\n</think>\n\nPar"):
        (ids,) = completions_group(tokenizer, PROMPT, [said], ended=False, origin="drawn").completions
        assert read(tokenizer, ids) == said


def test_an_answer_that_a_judge_might_begin_with_stands_behind_the_empty_thought():
    tokenizer = _tokenizer("tag in prompt")
    (ids,) = completions_group(tokenizer, PROMPT, ["1"], ended=False).completions
    assert read(tokenizer, ids) == "\n</think>\n\n1"


def test_refused_rows_name_their_place_and_both_texts():
    tokenizer = _tokenizer("tag in prompt, thought dropped")
    record = Comparison(prompt=PROMPT, chosen=THOUGHT, rejected=PLAIN, origin="pairs.jsonl:7")
    with pytest.raises(
        InputError, match=r"pairs.jsonl:7: .*ending in .*<think>.*but writes this turn differently .*Paris"
    ):
        encode_all(tokenizer, [record], max_prompt_tokens=99, max_completion_tokens=99)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("always a thought", THOUGHT), ("tag in prompt", CLOSED), ("a thought where there is one", THOUGHT)],
)
def test_a_thought_in_a_field_of_its_own_is_written_by_the_template(shape, expected):
    tokenizer = _tokenizer(shape)
    answer = Message(role="assistant", content=PLAIN, reasoning="Paris, surely.")
    group = demonstration_group(tokenizer, Conversation(messages=(ASK, answer)))
    assert read(tokenizer, group.completions[0]) == f"{expected}<|im_end|>"


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ("kept as it is", "has reasoning_content"),
        ("closed thought in prompt", DIFFERENT),
    ],
)
def test_a_thought_that_the_template_cannot_write_refuses_the_row(shape, reason):
    answer = Message(role="assistant", content=PLAIN, reasoning="Paris, surely.")
    with pytest.raises(InputError, match=reason):
        demonstration_group(_tokenizer(shape), Conversation(messages=(ASK, answer)))


def test_a_last_turn_that_is_written_otherwise_in_mid_chat_is_refused_there():
    tokenizer = _tokenizer("last turn trimmed")
    chat = (ASK, Message(role="assistant", content="Paris. "), ASK, Message(role="assistant", content="No."))
    with pytest.raises(InputError, match="writes message 2 differently once the chat has gone on"):
        demonstration_group(tokenizer, Conversation(messages=chat))
    clean = (ASK, Message(role="assistant", content="Paris."), ASK, Message(role="assistant", content="No."))
    assert demonstration_group(tokenizer, Conversation(messages=clean))
