"""Settings from files: what is read, what is refused, and where the message points."""

import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import prefloop.configs
from prefloop.cli.flags import read_flags
from prefloop.configs.common import Data, Optim, RunSettings
from prefloop.configs.critic_free import METHODS, CriticFreeConfig
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.load import Given, default_of, load_config, names_of, nearest, overlay, types_of
from prefloop.configs.ppo import PPOConfig
from prefloop.configs.pretrain import PretrainConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sample import SampleConfig
from prefloop.configs.sft import SFTConfig
from prefloop.errors import InputError
from prefloop.runtime.folder import describe

STAGES = (PretrainConfig, SFTConfig, RewardConfig, PPOConfig, DPOConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """A group."""

    rate: float = 1.0
    kind: Literal["slow", "fast"] = "slow"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """One setting of every type."""

    name: str
    count: int = 3
    on: bool = False
    words: tuple[str, ...] = ()
    numbers: tuple[int, ...] = (1,)
    maybe: int | None = None
    inner: Inner = field(default_factory=lambda: Inner(rate=0.5))


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    return file


def refused(tmp_path: Path, text: str, cls: Any = Outer) -> str:
    """The error without the folder."""
    file = write(tmp_path, text)
    with pytest.raises(InputError) as error:
        load_config(cls, file)
    message = str(error.value)
    assert "\n" not in message
    return message.replace(f"{tmp_path}/", "")


def test_every_type_is_read(tmp_path: Path) -> None:
    text = (
        "name: a\ncount: 4\non: true\nwords: [x, y]\nnumbers: []\nmaybe: 7\ninner:\n  rate: 2\n  kind: fast\n"
    )
    read = load_config(Outer, write(tmp_path, text))
    assert read == Outer(
        name="a",
        count=4,
        on=True,
        words=("x", "y"),
        numbers=(),
        maybe=7,
        inner=Inner(rate=2.0, kind="fast"),
    )
    assert isinstance(read.inner.rate, float)


def test_what_is_not_named_keeps_the_stages_own_default(tmp_path: Path) -> None:
    read = load_config(Outer, write(tmp_path, "name: a\ninner: {kind: fast}\n"))
    assert read.inner == Inner(rate=0.5, kind="fast")
    file = write(tmp_path, "model: m\nrun: {out: o}\noptim: {lr: 1e-3}\n")
    assert load_config(DPOConfig, file).optim == Optim(lr=1e-3, schedule="linear", warmup=0.1)


@pytest.mark.parametrize("text", ["", "# nothing\n", "inner:\n"])
def test_an_empty_file_or_group_changes_nothing(tmp_path: Path, text: str) -> None:
    flags = {"name": Given(value="a", where="--name")}
    assert load_config(Outer, write(tmp_path, text), flags) == Outer(name="a")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "value"), [("1e-5", 1e-5), ("1E3", 1000.0), ("-.5e1", -5.0), ("3", 3.0), ("0.1", 0.1)]
)
def test_numbers_that_yaml_takes_for_text(tmp_path: Path, text: str, value: float) -> None:
    assert load_config(Outer, write(tmp_path, f"name: a\ninner: {{rate: {text}}}")).inner.rate == value


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "name: a\ncount: 4\ninner: {rate: 2, kind: fast}\n")
    flags: Any = {"count": Given(value=9, where="--count"), "inner": {"rate": Given(value=3.0, where="--x")}}
    assert load_config(Outer, file, flags) == Outer(name="a", count=9, inner=Inner(rate=3.0, kind="fast"))


def test_overlay_leaves_both_as_they_were() -> None:
    below: Any = {"a": Given(value=1, where=""), "g": {"b": Given(value=2, where="")}}
    above: Any = {"g": {"c": Given(value=3, where="")}}
    assert {name: set(tree) for name, tree in overlay(below, above).items() if isinstance(tree, dict)} == {
        "g": {"b", "c"}
    }
    assert set(below["g"]) == {"b"}
    assert set(above) == {"g"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae: a\n", "settings.yaml:1: nmae is not a setting; did you mean name?"),
        ("name: a\ninner:\n  raet: 1\n", "settings.yaml:3: inner.raet is not a setting; did you mean inner.rate?"),
        ("name: a\nrate: 1\n", "settings.yaml:2: rate is not a setting; did you mean inner.rate?"),
        ("name: a\nname: b\n", "settings.yaml:2: name is set in line 1 already; keep one of the two"),
        ("name: 3\n", "settings.yaml:1: name is 3; it must be text, in quotes"),
        ("name: a\ncount: 3.5\n", "settings.yaml:2: count is 3.5; it must be a whole number"),
        ("name: a\ncount: true\n", "settings.yaml:2: count is True; it must be a whole number"),
        ("name: a\non: 1\n", "settings.yaml:2: on is 1; it must be true or false"),
        ("name: a\nwords: x\n", "settings.yaml:2: words is 'x'; it must be a list, each of its items text"),
        ("name: a\nnumbers: [1, x]\n", "settings.yaml:2: numbers is [1, 'x']; it must be a whole number"),
        ("name: a\nmaybe: x\n", "settings.yaml:2: maybe is 'x'; it must be a whole number"),
        (
            "name: a\ninner: {kind: fsat}\n",
            "settings.yaml:2: inner.kind is 'fsat'; it must be one of slow, fast (did you mean fast?)",
        ),
        (
            "name: a\ninner: 3\n",
            "settings.yaml:2: inner is a group of settings, names with values, such as `inner: {rate: ...}`",
        ),
        ("- a\n", "settings.yaml:1: this is a file of settings, names with values, such as `name: ...`"),
        ("name: a\n  b: c\n", "settings.yaml:2: is not YAML (mapping values are not allowed here); correct the line"),
        ("name: !!python/object:os.system x\n", "settings.yaml:1: is not YAML"),
        ("count: 1\n", "name is not set; give --name ..., or the name in a file of settings with --config"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text).startswith(message)


def test_a_name_like_no_other_gets_the_list(tmp_path: Path) -> None:
    assert refused(tmp_path, "zzz: 1\n").endswith(
        "the settings are name, count, on, words, numbers, maybe, inner.rate, inner.kind"
    )


def test_contradictory_settings_are_said_with_the_line_of_the_first_one_named(tmp_path: Path) -> None:
    text = "model: m\nreward_model: r\nrun: {out: o}\nkl:\n  coef: 0\n  target: 3\n"
    assert refused(tmp_path, text, PPOConfig).startswith(
        "settings.yaml:6: kl.target is set but kl.coef is 0;"
    )
    text = "model: m\nrun:\n  out: o\n  keep: 0\n"
    assert refused(tmp_path, text, SFTConfig).startswith("settings.yaml:4: run.keep is 0;")


def test_a_flag_can_mend_what_the_file_alone_would_not_allow(tmp_path: Path) -> None:
    file = write(tmp_path, "model: m\nrun: {out: o}\nepochs: 0\n")
    with pytest.raises(InputError, match=r":3: epochs is 0"):
        load_config(SFTConfig, file)
    assert load_config(SFTConfig, file, {"max_steps": Given(value=5, where="--max_steps")}).max_steps == 5


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; give a YAML file"):
        load_config(Outer, tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load_config(Outer, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        load_config(Outer, tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("lr", "optim.lr"),
        ("kl.coff", "kl.coef"),
        ("critic.lr", "critic.optim.lr"),
        ("max_new_token", "sampling.max_new_tokens"),
        ("xyzzy", ""),
    ],
)
def test_nearest_name(name: str, near: str) -> None:
    assert nearest(name, list(names_of(PPOConfig))) == near


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    if dataclasses.is_dataclass(kind):
        return configs(kind)
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        return st.lists(values_of(get_args(kind)[0]), max_size=3).map(tuple)
    if get_origin(kind) in (Union, UnionType):
        return st.none() | values_of(next(k for k in get_args(kind) if k is not type(None)))
    return {
        bool: st.booleans(),
        int: st.integers(0, 2000),
        float: st.floats(0, 2) | st.just(0.0),
        str: TEXT,
    }[kind]


@st.composite
def configs(draw: st.DrawFn, cls: Any) -> Any:
    """Settings of a class that it accepts: every one drawn or left at its default."""
    chosen, needed = {}, {"out", "reward_model"}
    for each in dataclasses.fields(cls):
        must = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if each.name == "resume":
            continue  # whether to go on is said on the command line
        if must or draw(st.integers(0, 3)) == 0:
            chosen[each.name] = draw(values_of(types_of(cls)[each.name]))
            needed |= {each.name} if must else set()
    if "reward_model" in types_of(cls):
        chosen["reward_model"] = draw(TEXT.filter(bool))
    if cls is RunSettings:
        chosen["out"] = draw(TEXT.filter(bool))
    while True:
        try:
            return cls(**chosen)
        except InputError:  # settings that contradict each other: leave out the last that may be
            optional = [name for name in chosen if name not in needed]
            assume(bool(optional))
            del chosen[optional[-1]]


@pytest.mark.parametrize("cls", STAGES)
def test_what_a_run_writes_reads_back_as_the_same_settings(
    cls: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run")

    @settings(max_examples=40)
    @given(config=configs(cls))
    def check(config: Any) -> None:
        describe(folder, config)
        assert load_config(cls, folder / "config.yaml") == config

    check()


@pytest.mark.parametrize(
    "text",
    [
        "\x85",
        "a\u2028b",
        "é",
        " a ",
        "1e5",
        "no",
        "~",
        "#",
        "a: b",
        "\t",
        "\r\n",
        "\x00",
        "\ufeff",
        "日本",
        "😀",
    ],
)
def test_text_that_yaml_could_read_as_something_else(text: str, tmp_path: Path) -> None:
    config = SFTConfig(run=RunSettings(out=text), data=Data(source=text, split=text), model=text)
    describe(tmp_path, config)
    assert load_config(SFTConfig, tmp_path / "config.yaml") == config


@given(config=configs(SampleConfig))
def test_settings_without_a_run_read_back_too(
    config: SampleConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("sample") / "settings.yaml"
    file.write_text(yaml.safe_dump(dataclasses.asdict(config)), encoding="utf-8")
    assert load_config(SampleConfig, file) == config


NUMBERS = {
    "lr": (".inf", "-.inf", ".nan", "inf", "nan", "1e308", "010", "1:30", "9" * 5000),
    "batch": ("010", "0x10", "1:30", "9" * 5000, str(10**30), ".inf", "1.5", "-1"),
}


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, texts in NUMBERS.items() for text in texts]
)
def test_numbers_that_are_slips_are_refused(tmp_path: Path, kind: str, text: str) -> None:
    setting = {"lr": "optim: {lr: %s}", "batch": "batch_size: %s"}[kind] % text
    with pytest.raises(InputError) as raised:
        load_config(DPOConfig, write(tmp_path, f"model: m\nrun: {{out: o}}\n{setting}\n"))
    assert "settings.yaml:3: " in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 400


def numeric_settings() -> list[tuple[Any, str, Any]]:
    """Every setting of every class of settings that is a number."""
    modules = [
        importlib.import_module(f"prefloop.configs.{each.name}")
        for each in pkgutil.iter_modules(prefloop.configs.__path__)
    ]
    classes = [
        each
        for module in modules
        for each in vars(module).values()
        if dataclasses.is_dataclass(each) and getattr(each, "__module__", "") == module.__name__
    ]
    return [
        (cls, name, kind) for cls in classes for name, kind in names_of(cls).items() if kind in (int, float)
    ]


def test_no_setting_of_any_command_takes_what_is_no_number() -> None:
    found = numeric_settings()
    assert len(found) > 200
    for cls, name, kind in found:
        for word in ("nan", "inf", "1e308") if kind is float else (str(10**30), "1e3"):
            with pytest.raises(InputError) as raised:
                read_flags([f"--{name}={word}"], cls)
            assert str(raised.value).startswith(f"--{name} is ")


SIGNED = {"length_penalty", "missing_eos", "failure_reward", "wrong"}
"""Below zero the first two are a bonus, the others a penalty."""
NEEDED: dict[str, dict[str, Any]] = {
    "RunSettings": {"out": "o"},
    "Preferences": {"source": "s"},
    "ArenaConfig": {"store": "s"},
    "UserRetainConfig": {"days": 30},
    "ImageEraseConfig": {"image": "0" * 12},
    **{method.__name__: {"reward_model": "r"} for method in (CriticFreeConfig, *METHODS)},
    **{name: {"reward_model": "r"} for name in ("PPOConfig", "A2CConfig", "NLPOConfig")},
    "EnvironmentSettings": {"name": "e"},
    "NashMDConfig": {"reward_model": "r"},
    "SPPOConfig": {"reward_model": "r"},
    "SelfRewardingConfig": {"reward_model": "r"},
    "JudgeConfig": {"checkpoint": "c"},
    "ReviseConfig": {"checkpoint": "c"},
    "AnswersConfig": {"out": "o.jsonl"},
    "RemoteExportConfig": {"out": "o.jsonl"},
    "RemoteCallConfig": {"path": "/p"},
    "EstimateConfig": {"command": ("dpo",)},
    "LaunchConfig": {"slurm": True, "command": ("dpo",)},
    "VerifierConfig": {"kind": "exact"},
    "StudyConfig": {"name": "all", "out": "o"},
    "MergeConfig": {"models": ("a", "b")},
}
"""What some classes want beside the settings that have no default."""


def required(cls: Any) -> dict[str, Any]:
    """Values without which a class of settings is refused."""
    values: dict[str, Any] = {}
    for setting in dataclasses.fields(cls):
        if default_of(setting) is dataclasses.MISSING:
            kind: Any = types_of(cls)[setting.name]
            make, plain = kind, {int: 1, str: "x"}.get(kind, ("x",))
            values[setting.name] = make(**required(kind)) if dataclasses.is_dataclass(kind) else plain
    return values | NEEDED.get(cls.__name__, {})


def test_no_setting_takes_a_number_below_zero_where_none_belongs() -> None:
    """Of settings that are numbers, each by its own class."""
    for cls in {cls for cls, _, _ in numeric_settings()}:
        for name in (name for name, kind in types_of(cls).items() if kind is float and name not in SIGNED):
            with pytest.raises(InputError, match=rf"\b{name} is -1"):
                cls(**required(cls) | {name: -1.0})


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "a: " * 3,
        "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]),
    ],
)
def test_files_that_are_bombs_are_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as raised:
        load_config(DPOConfig, write(tmp_path, text))
    assert len(str(raised.value).splitlines()) == 1


def test_aliases_that_stand_for_more_than_memory_are_shown_short(tmp_path: Path) -> None:
    value = "&a0 [x, x]"
    for n in range(1, 40):
        value = f"&a{n} [{value}, *a{n - 1}]"
    with pytest.raises(InputError, match=r"targets is .*it must be") as raised:
        load_config(DPOConfig, write(tmp_path, f"model: m\nrun: {{out: o}}\nlora: {{targets: {value}}}\n"))
    assert len(str(raised.value)) < 2000
