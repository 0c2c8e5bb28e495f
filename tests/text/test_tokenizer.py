"""Loading, training and checking tokenizers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config

from prefloop.errors import InputError
from prefloop.records import Prompt
from prefloop.text import completions_group, decode_completion
from prefloop.text.tokenizer import (
    SPECIAL_TOKENS,
    check_vocabulary,
    load_tokenizer,
    stop_token_ids,
    train_tokenizer,
)
from tests.text.kinds import CORPUS, build, token_id

ANY_TEXT = st.text(st.characters(codec="utf-8"))


def test_training_is_deterministic_and_reads_its_texts_once():
    first, second = (train_tokenizer(iter(CORPUS), vocab_size=400) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


@pytest.mark.parametrize(("vocab_size", "expected"), [(262, 262), (300, 300), (100_000, None)])
def test_vocab_size_is_an_upper_bound(vocab_size, expected):
    tokenizer = train_tokenizer(CORPUS, vocab_size=vocab_size)
    assert len(tokenizer) <= vocab_size
    if expected is not None:
        assert len(tokenizer) == expected
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1


def test_special_tokens_are_distinct_and_come_first():
    tokenizer = train_tokenizer(CORPUS, vocab_size=300)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(6))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)


def test_too_small_a_vocabulary_and_no_text_are_errors():
    with pytest.raises(InputError, match="vocab_size is 100; it must be 262 or more"):
        train_tokenizer(CORPUS, vocab_size=100)
    for nothing in ([], ["", ""]):
        with pytest.raises(InputError, match="no text to train a tokenizer on"):
            train_tokenizer(nothing, vocab_size=300)
    with pytest.raises(InputError, match="text 2 has a broken character at position 1"):
        train_tokenizer(["good", "b\ud83dd"], vocab_size=300)


@given(ANY_TEXT)
def test_trained_tokenizer_writes_any_text_exactly(text):
    tokenizer = build("ours")
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert all(token >= len(SPECIAL_TOKENS) for token in ids)


def test_no_merge_learns_a_special_token_from_text():
    tokenizer = train_tokenizer(["<|eos|><|bos|> <|user|>"] * 200, vocab_size=400)
    ids = tokenizer("a <|eos|> b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert all(token >= len(SPECIAL_TOKENS) for token in ids)


def test_saved_folder_loads_the_same_everywhere(tmp_path):
    tokenizer = train_tokenizer(CORPUS, vocab_size=400)
    tokenizer.save_pretrained(tmp_path)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    texts = [*CORPUS[:6], "<|eos|> é e\u0301"]
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)):
        assert loaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]
        assert loaded.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(
            chat, tokenize=False
        )
        assert loaded.all_special_ids == tokenizer.all_special_ids


def test_the_model_beside_it_does_not_change_a_tokenizer(tmp_path):
    tokenizer = train_tokenizer(CORPUS, vocab_size=400)
    tokenizer.save_pretrained(tmp_path)
    Qwen2Config(vocab_size=400).save_pretrained(
        tmp_path
    )  # AutoTokenizer would normalise text for this architecture
    text = "e\u0301 and 12345"
    assert load_tokenizer(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert load_tokenizer(str(tmp_path)).decode(load_tokenizer(tmp_path)(text)["input_ids"][1:]) == text


def test_own_chat_template_word_for_word():
    tokenizer = build("ours")
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": " Hi\n"},
        {"role": "assistant", "content": " Hello "},
        {"role": "user", "content": "Bye"},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    expected = "<|bos|><|system|>Be kind.<|user|> Hi\n<|assistant|> Hello <|eos|><|user|>Bye<|assistant|>"
    assert text == expected


def test_tokenizer_without_an_end_token_is_refused(tmp_path):
    tokenizer = train_tokenizer(CORPUS, vocab_size=300)
    tokenizer.save_pretrained(tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(settings.read_text()).items() if key != "eos_token"}
    settings.write_text(json.dumps(kept))
    with pytest.raises(InputError, match=r"has no end token.*set eos_token in its tokenizer_config.json"):
        load_tokenizer(tmp_path)


def test_what_cannot_be_loaded_says_so(tmp_path):
    for missing in (tmp_path / "none", "./none/at/all", "a/b/c"):
        with pytest.raises(InputError, match="there is no folder"):
            load_tokenizer(missing)
    with pytest.raises(InputError, match=f"no tokenizer could be loaded from '{tmp_path}'"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{broken")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(InputError, match=f"{tmp_path}/tokenizer.json cannot be read as JSON"):
        load_tokenizer(tmp_path)


def test_remote_code_stays_off(tmp_path):
    build("ours").save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Odd", "auto_map": {"AutoTokenizer": ["odd.Odd", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="trust_remote_code"):
        load_tokenizer(tmp_path)
    assert not Path(tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("kind", "stops"),
    [
        ("ours", ["<|eos|>"]),
        ("gpt2", ["<|endoftext|>"]),
        ("qwen chatml", ["<|im_end|>"]),
        ("qwen thinking", ["<|im_end|>"]),
        ("llama2", ["</s>"]),
        ("llama2 zephyr", ["</s>"]),
        ("llama3", ["<|end_of_text|>", "<|eot_id|>"]),
        ("gemma", ["</s>", "<end_of_turn>"]),
        ("glm", ["<|endoftext|>", "<|user|>"]),
        ("added chatml", ["<|endoftext|>", "<|im_end|>"]),
        ("unigram", ["</s>"]),
    ],
)
def test_stop_tokens_are_the_end_and_the_end_of_turn(kind, stops):
    tokenizer = build(kind)
    assert tokenizer.convert_ids_to_tokens(list(stop_token_ids(tokenizer))) == stops


def test_stop_tokens_follow_a_new_template():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build("added chatml").backend_tokenizer, eos_token="<|endoftext|>"
    )
    assert stop_token_ids(tokenizer) == (tokenizer.eos_token_id,)
    tokenizer.chat_template = build("added chatml").chat_template
    assert stop_token_ids(tokenizer) == (
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )


def test_vocabulary_must_fit_the_model():
    tokenizer = build("ours")
    check_vocabulary(tokenizer, len(tokenizer))
    check_vocabulary(tokenizer, len(tokenizer) + 64)
    with pytest.raises(InputError, match=r"with id 449, but the model has 449 embeddings.*resize"):
        check_vocabulary(tokenizer, len(tokenizer) - 1)


def test_slow_tokenizers_are_refused(monkeypatch, tmp_path):
    slow = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="</s>")
    monkeypatch.setattr(type(slow), "is_fast", False)
    monkeypatch.setattr("prefloop.text.tokenizer._load", lambda *_: slow)
    with pytest.raises(InputError, match="no fast version"):
        load_tokenizer(tmp_path)


def _with_files(folder: Path, kind: str, **files: object) -> Path:
    """A folder with a tokenizer and, beside it, files of settings."""
    build(kind).save_pretrained(folder)
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def test_every_end_token_that_the_models_files_name_stops(tmp_path):  # M17
    tokenizer = build("llama3")
    eot, header = (token_id(tokenizer, token) for token in ("<|eot_id|>", "<|start_header_id|>"))
    folder = _with_files(
        tmp_path, "llama3", generation_config={"eos_token_id": [eot, header]}, config={"eos_token_id": header}
    )
    loaded = load_tokenizer(folder)
    assert stop_token_ids(loaded) == (loaded.eos_token_id, eot, header)
    words = loaded("The cat", add_special_tokens=False)["input_ids"]
    for stop in stop_token_ids(loaded):
        assert decode_completion(loaded, [*words, stop]) == "The cat"


def test_a_declared_stop_is_no_text_that_a_record_could_write(tmp_path):
    tokenizer = build("qwen chatml")
    think = token_id(tokenizer, "</think>")
    folder = _with_files(tmp_path, "qwen chatml", generation_config={"eos_token_id": think})
    prompt = Prompt(content="The cat")
    assert think in completions_group(tokenizer, prompt, ["a</think>b"]).completions[0]
    assert think not in completions_group(load_tokenizer(folder), prompt, ["a</think>b"]).completions[0]


def test_the_end_token_of_a_text_part_of_the_config_counts(tmp_path):
    tokenizer = build("llama3")
    header = token_id(tokenizer, "<|start_header_id|>")
    folder = _with_files(tmp_path, "llama3", config={"text_config": {"eos_token_id": [header]}})
    assert header in stop_token_ids(load_tokenizer(folder))


def test_an_ordinary_word_named_as_end_token_stops_nothing(tmp_path, caplog):
    """Configurations that nobody set say 2, whatever token that is."""
    word = token_id(build("llama3"), "a")
    folder = _with_files(tmp_path, "llama3", config={"eos_token_id": word})
    assert word not in stop_token_ids(load_tokenizer(folder))
    assert f"eos_token_id {word} in config.json is not a control token" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"eos_token_id": "</s>"},
            "eos_token_id in generation_config.json is '</s>'; it must be a token's number",
        ),
        ({"eos_token_id": [True]}, "it must be a token's number"),
        ([1], r"generation_config.json holds list, not an object"),
    ],
)
def test_end_tokens_of_the_wrong_type_are_an_error(tmp_path, values, message):
    with pytest.raises(InputError, match=message):
        load_tokenizer(_with_files(tmp_path, "llama3", generation_config=values))


def test_broken_settings_are_an_error(tmp_path):
    folder = _with_files(tmp_path, "llama3")
    (folder / "generation_config.json").write_text('{"eos_token_id": [1')
    with pytest.raises(InputError, match=r"generation_config.json is not JSON"):
        load_tokenizer(folder)
