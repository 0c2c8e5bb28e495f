"""Help: complete, and there at once."""

import dataclasses
import shlex
import subprocess
import sys

import pytest

from prefloop.cli.commands import GROUPS, commands, find, load
from prefloop.cli.flags import read_flags
from prefloop.cli.help import field_docs
from prefloop.cli.program import main
from prefloop.configs.load import in_words, load_config, names_of

SLOW = ("torch", "transformers", "tokenizers", "peft", "scipy", "sklearn", "sqlalchemy", "numpy", "datasets")


def test_help_imports_nothing_slow() -> None:
    """Every page in one process of its own; what they import is all that any of them does."""
    pages = [
        ["--help"],
        [],
        *([group] for group in GROUPS),
        *([*name.split(), "--help"] for name in commands()),
    ]
    program = (
        "import sys\n"
        "from prefloop.cli import main\n"
        f"codes = [main(page) for page in {pages!r}]\n"
        "assert codes == [0] * len(codes), codes\n"
        f"print('SLOW', [name for name in {SLOW!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "SLOW []"


def test_mistakes_in_flags_and_data_commands_import_no_torch() -> None:
    program = (
        "import sys\n"
        "from prefloop.cli import main\n"
        "for line in ('sft --modle m', 'ppo --out x', 'data check none.jsonl', 'label simulate --store none.db', 'lineage x'):\n"
        "    assert main(line.split()) == 2, line\n"
        "print([name for name in ('torch', 'transformers', 'sklearn') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", list(commands()))
def test_every_setting_has_a_type_a_flag_can_give_and_a_line_of_help(name: str) -> None:
    settings = load(commands()[name].settings)
    for kind in names_of(settings).values():
        assert in_words(kind)

    def check(cls: type) -> None:
        docs = field_docs(cls)
        hints = dataclasses.fields(cls)
        for field in hints:
            kind = load_type(cls, field.name)
            if dataclasses.is_dataclass(kind):
                check(kind)  # pyright: ignore[reportArgumentType]
            else:
                assert docs.get(field.name), f"{cls.__name__}.{field.name} has no docstring"

    check(settings)


def load_type(cls: type, name: str) -> object:
    from prefloop.configs.load import types_of

    return types_of(cls)[name]


@pytest.mark.parametrize("name", list(commands()))
def test_every_command_has_work_to_do(name: str) -> None:
    assert callable(load(commands()[name].work))


def test_a_page_shows_short_flags_defaults_and_what_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dpo", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "--data, --data.source TEXT" in page
    assert "--out, --run.out TEXT" in page
    assert "[required]" in page
    assert "Peak learning rate. [5e-07]" in page  # the stage's own default, not the group's
    assert "--optim.schedule constant|linear|cosine" in page


def test_inherited_settings_have_their_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "toy", "--help"]) == 0
    assert "Project folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "example"), [(name, each) for name, command in commands().items() for each in command.examples]
)
def test_an_example_can_be_typed(name: str, example: str) -> None:
    """Its flags exist, and nothing that is required is missing where no file of settings has it."""
    words = shlex.split(example.rpartition("| ")[2])
    assert words.pop(0) == "prefloop"
    found, command, rest = find(words)
    assert found == name
    settings = load(command.settings)
    flags = read_flags(rest, settings, positional=command.positional)
    if not flags.config:
        load_config(settings, flags.config, flags.given)


def test_every_command_has_an_example() -> None:
    assert [name for name, command in commands().items() if not command.examples] == []


def test_a_group_shows_its_commands_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    page = capsys.readouterr().out
    assert "  prefloop run toy --out runs/toy\n" in page
    assert "  prefloop run imdb --data DATA --out runs/imdb\n" in page
