"""`prefloop label questions` and `prefloop label answers`."""

from dataclasses import replace
from pathlib import Path

from prefloop.cli.printing import show_left_out
from prefloop.configs.label_questions import AnswersConfig, QuestionsConfig
from prefloop.data.store import Filters, Store
from prefloop.errors import InputError


def set_questions(config: QuestionsConfig) -> None:
    """Print a project's questions, or set them."""
    from prefloop.studio.questions import read_yaml, write_yaml
    from prefloop.studio.service import Studio

    with Store.open(config.store, create=False) as store:
        studio = Studio(store)
        project = studio.find_project(config.project)
        if not config.file:
            print(write_yaml(project.settings.questions), end="")
            return
        try:
            text = Path(config.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"file: {config.file} cannot be read ({error})") from error
        try:
            questions = read_yaml(text)
        except InputError as error:
            raise InputError(f"{config.file}: {error}") from error
        studio.change_project(project.id, replace(project.settings, questions=questions))
    names = ", ".join(question.name for question in questions) or "none"
    print(f"project {project.settings.name!r}: {len(questions)} further questions ({names})")


def write_answers(config: AnswersConfig) -> None:
    """Write answers to a file."""
    from prefloop.studio.question_exports import answer_rows, as_jsonl
    from prefloop.studio.service import Studio

    with Store.open(config.store, create=False) as store:
        found = answer_rows(Studio(store), config.kind, Filters.of(config), labels=config.labels)
    try:
        Path(config.out).write_bytes(as_jsonl(found.rows))
    except OSError as error:
        raise InputError(
            f"{config.out}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    print(f"{config.out}: {len(found.rows)} rows of {config.kind}")
    show_left_out(found.left_out)
