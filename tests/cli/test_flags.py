"""Flags to settings."""

from typing import Any

import pytest

from prefloop.cli.flags import read_flags
from prefloop.configs.data import CheckConfig
from prefloop.configs.load import load_config
from prefloop.configs.ppo import PPOConfig
from prefloop.configs.sample import SampleConfig
from prefloop.configs.sft import SFTConfig
from prefloop.errors import InputError
from tests.configs.test_load import Outer


def read(line: str, cls: Any = Outer, positional: tuple[str, ...] = ()) -> Any:
    flags = read_flags(line.split(), cls, positional=positional)
    return load_config(cls, flags.config, flags.given)


def refused(line: str, cls: Any = Outer, positional: tuple[str, ...] = ()) -> str:
    with pytest.raises(InputError) as error:
        read(line, cls, positional)
    return str(error.value)


def test_tuning_is_switched_off() -> None:
    line = "--model m --data d --out o"
    assert read(line, SFTConfig).run.tune
    assert not read(f"{line} --no-tune", SFTConfig).run.tune
    assert not read(f"--no-tune {line}", SFTConfig).run.tune
    assert "twice" in refused(f"{line} --no-tune --run.tune true", SFTConfig)
    assert "is not a flag" in refused("--no-tune")


def test_every_type() -> None:
    line = "--name a --count 4 --on --words x y --numbers 1 2 --maybe 7 --inner.rate 1e-3 --inner.kind fast"
    got = read(line)
    assert (got.name, got.count, got.on, got.words, got.numbers, got.maybe) == (
        "a",
        4,
        True,
        ("x", "y"),
        (1, 2),
        7,
    )
    assert (got.inner.rate, got.inner.kind) == (1e-3, "fast")


def test_equals_signs_empty_lists_and_null() -> None:
    got = read("--name=a=b --words --maybe null --inner.rate=-2")
    assert (got.name, got.words, got.maybe, got.inner.rate) == ("a=b", (), None, -2.0)
    assert read_flags(["--name="], Outer).given["name"].value == ""  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("word", "value"), [("--on", True), ("--on true", True), ("--on false", False), ("--on=False", False)]
)
def test_true_or_false(word: str, value: bool) -> None:
    assert read(f"--name a {word}").on is value
    assert read(f"{word} --name a").on is value


def test_hyphens_are_underscores() -> None:
    line = "--model m --out o --batch-size 3 --data.max-prompt-tokens 9"
    got = read(line, SFTConfig)
    assert (got.batch_size, got.data.max_prompt_tokens) == (3, 9)


def test_short_flags() -> None:
    got = read("--model m --data d --out o --seed 3 --resume --store s", SFTConfig)
    assert (got.data.source, got.run.out, got.run.seed, got.run.resume, got.run.store) == (
        "d",
        "o",
        3,
        True,
        "s",
    )
    # Where the short name is a setting of its own, it is that one.
    got = read("--model m --data d --store s --seed 3", SampleConfig)
    assert (got.data.source, got.store, got.seed) == ("d", "s", 3)


def test_positional_settings() -> None:
    assert read("a.jsonl --json", CheckConfig, ("source",)).source == "a.jsonl"
    got = read("--json a.jsonl", CheckConfig, ("source",))
    assert (got.source, got.json) == ("a.jsonl", True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--nmae a", "--nmae is not a flag; did you mean --name?"),
        ("--rate 1", "--rate is not a flag; did you mean --inner.rate?"),
        ("--xyzzy 1", "--xyzzy is not a flag; --help lists them"),
        ("--cofnig f", "--cofnig is not a flag; did you mean --config?"),
        ("--name", "--name has no value; it must be text"),
        ("--name --count 3", "--name has no value; it must be text"),
        ("--name a --count x", "--count is 'x'; it must be a whole number"),
        ("--name a --count 3.0", "--count is '3.0'; it must be a whole number"),
        ("--name a --count 010", "--count is '010'; it must be a whole number, in plain decimal digits without a leading zero"),
        ("--name a --count \uff14", "--count is '\uff14'; it must be a whole number, in plain decimal digits without a leading zero"),
        ("--name a --inner.rate 010", "--inner.rate is '010'; it must be a number, in plain decimal digits without a leading zero"),
        ("--name a --inner.rate x", "--inner.rate is 'x'; it must be a number"),
        ("--name a --on maybe", "--on is 'maybe'; it must be true or false"),
        ("--name a --numbers 1 x", "--numbers is 'x'; it must be a whole number"),
        ("--name a --inner.kind fsat", "--inner.kind is 'fsat'; it must be one of slow, fast (did you mean fast?)"),
        ("--name a --name b", "name is given twice, by --name; give it once"),
        ("b --name a", "unexpected argument 'b'; write it after its flag, --NAME b (see --help for the names)"),
        ("--config a --config b", "--config is given twice, a and b; put both into one file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line(line: str, message: str) -> None:
    assert refused(line) == message


def test_a_misspelt_short_flag_gets_the_short_one() -> None:
    assert refused("--rseume", SFTConfig) == "--rseume is not a flag; did you mean --resume?"


def test_long_and_short_of_one_setting() -> None:
    assert (
        refused("--out a --run.out b", SFTConfig)
        == "run.out is given twice, by --out and --run.out; give it once"
    )


def test_a_setting_that_its_group_refuses_is_named_by_its_flag() -> None:
    message = refused("--model m --reward_model r --out o --critic.optim.lr -1", PPOConfig)
    assert message == "--critic.optim.lr: lr is -1.0; it must be 0 or more"
