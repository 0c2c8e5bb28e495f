"""Further questions, spans, best-worst choices and suggestions: what is asked, what is refused, what is stored, and what comes out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from prefloop.cli.program import main
from prefloop.data import load_records
from prefloop.data.store import Store, studio_models
from prefloop.data.store.values import Judgement
from prefloop.errors import InputError
from prefloop.records import Prompt, Steps
from prefloop.studio import suggestions
from prefloop.studio.questions import Question, QuestionAnswer, Span, read_yaml, write_yaml
from prefloop.studio.service import Studio
from prefloop.studio.values import Answer, ProjectSettings
from tests.studio.made import completion, fill
from tests.studio.web import Person

YAML = """\
- name: correct
  kind: rating
  of: reply
  required: true
- name: tone
  kind: choice
  options: [kind, rude]
- name: wrong
  kind: spans
  options: [untrue, unclear]
- name: why
  kind: text
"""
RATED = [{"question": "correct", "value": 4, "place": 0}, {"question": "correct", "value": 2, "place": 1}]


def person(studio: Studio, name: str = "ann") -> int:
    return studio.store.add_annotator(name)


def asked(studio: Studio, **settings: Any) -> int:
    """A project with the questions, asked of the six pairs."""
    settings = {"overlap": 9, "questions": read_yaml(YAML)} | settings
    project = studio.create_project(ProjectSettings(name="p", **settings)).id
    studio.add_tasks(project, studio.store.add_pairs().ids)
    return project


def test_yaml_and_questions_are_the_same() -> None:
    questions = read_yaml(YAML)
    assert questions[2] == Question(name="wrong", kind="spans", of="reply", options=("untrue", "unclear"))
    assert read_yaml(write_yaml(questions)) == questions
    assert read_yaml("") == ()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("- [", "questions: line 1: "),
        ("name: x", "questions are .*; write a list"),
        ("- kind: text", "question 1: name is missing"),
        ("- {name: x, kind: stars}", "question 'x': kind is 'stars'; it must be one of rating"),
        ("- {name: x, kind: text, colour: red}", "unknown key 'colour'; known are ask, kind"),
        ("- {name: x, kind: rating, levels: many}", "levels is 'many'; it must be a number"),
        ("- {name: x, kind: rating, levels: 12}", "levels is 12; it must be 2 to 9"),
        ("- {name: x, kind: text, levels: 3}", "levels is only for ratings"),
        ("- {name: x, kind: choice, options: [yes, no]}", "each must be a text, in quotes"),
        ("- {name: x, kind: choice, options: [a]}", "options has 1 entries; give 2 to 20"),
        ("- {name: x, kind: spans, options: [a], required: true}", "spans cannot be required"),
        ("- {name: 1x, kind: text}", "begins with a letter"),
        ("- {name: x, kind: text}\n- {name: x, kind: text}", "two questions are named 'x'"),
    ],
)
def test_questions_that_make_no_sense_are_refused(given: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_yaml(given)


def test_answers_and_spans_are_checked_stored_and_come_back(studio: Studio) -> None:
    project, ann = asked(studio), Person(studio)
    item = ann.next(project)
    text = item["sources"][1]
    span = {"question": "wrong", "place": 1, "start": 0, "end": 6, "label": "untrue", "comment": "no"}
    whole = {"choice": "first", "answers": RATED, "spans": [span]}
    for change, told in (
        ({"answers": RATED[:1]}, "question 'correct' is not answered; it is required"),
        ({"answers": [*RATED, RATED[0]]}, "answered twice"),
        ({"answers": [*RATED, {"question": "mood", "value": 1}]}, "question 'mood' is not asked here"),
        ({"answers": [*RATED, {"question": "tone", "value": "loud"}]}, "must be one of kind, rude"),
        ({"answers": [*RATED, {"question": "tone", "value": "kind", "place": 0}]}, "place is 0"),
        ({"answers": [RATED[0], RATED[1] | {"value": 6}]}, "it must be a level, 1 to 5"),
        ({"spans": [span | {"end": len(text) + 1}]}, f"the reply has {len(text)} characters"),
        ({"spans": [span | {"end": 0}]}, "end is after start"),
        ({"spans": [span | {"label": "odd"}]}, "label is 'odd'; it must be one of untrue, unclear"),
        ({"spans": [span, span | {"comment": "again"}]}, "marked twice"),
        ({"spans": [span | {"question": "why"}]}, "of kind text, not spans"),
    ):
        answer = ann.submit(item["token"], whole | change)
        assert answer.status_code == 422, change
        assert told in answer.json()["detail"]
    assert ann.submit(item["token"], whole, key="the-same-key").status_code == 200
    assert ann.submit(item["token"], whole, key="the-same-key").status_code == 200
    other = ann.submit(item["token"], whole | {"spans": []}, key="the-same-key")
    assert other.status_code == 409
    draft = ann.send("POST", f"/assignments/{item['token']}/undo").json()["draft"]
    assert (draft["spans"], draft["answers"]) == ([span], RATED)
    assert ann.send("PUT", f"/assignments/{item['token']}/draft", draft).status_code == 204
    assert ann.submit(item["token"], whole).status_code == 200
    boss = Person(studio, "boss", "admin", client=ann.client)
    rows = boss.client.get(f"/api/v1/projects/{project}/answers?kind=answers").text.splitlines()
    row = json.loads(rows[0])
    reply = next(entry for entry in row["replies"] if entry["completion"] == text)
    assert (len(rows), reply["answers"], reply["spans"][0]["text"]) == (1, {"correct": 2}, text[:6])
    with studio.read() as session:
        task = session.scalars(select(studio_models.AssignmentRow.task_id)).one()
    page = boss.client.get(f"/admin/projects/{project}/items/{task}").text
    assert f"untrue “{text[:6]}” – no" in page


def test_offsets_are_of_characters_and_bad_lines_train_a_process_reward(
    studio: Studio, tmp_path: Path
) -> None:
    prompt, written = Prompt(content="two lines?"), "🙂 fine line\n\n🙂 bad line\nfine again"
    store = studio.store
    ids = store.add_completions(
        [completion(prompt, text, at) for at, text in enumerate((written, "other"))],
        store.add_checkpoint("secret-policy-7b"),
    )
    project = studio.create_project(ProjectSettings(name="q", questions=read_yaml(YAML))).id
    studio.add_tasks(project, store.add_items([ids], kind="pair"))
    ann = Person(studio)
    item = ann.next(project)
    place, start = item["sources"].index(written), written.index("bad")
    span = {"question": "wrong", "place": place, "start": start, "end": start + 3, "label": "untrue"}
    body = {"choice": "tie", "answers": RATED, "spans": [span, span | {"label": "unclear", "start": 0}]}
    assert ann.submit(item["token"], body).status_code == 200
    given = ["--store", store.label, "--projects", "q"]
    out = str(tmp_path / "out.jsonl")
    assert main(["label", "answers", *given, "--kind", "spans", "--labels", "untrue", "--out", out]) == 0
    rows = [json.loads(line) for line in Path(out).read_text().splitlines()]
    (marked,) = (row for row in rows if row["completion"] == written)
    assert [entry["text"] for entry in marked["spans"]] == ["bad"]
    assert written[marked["spans"][0]["start"] : marked["spans"][0]["end"]] == "bad"
    assert next(row for row in rows if row["completion"] == "other")["spans"] == []  # is an answer too
    assert main(["label", "answers", *given, "--kind", "steps", "--labels", "untrue", "--out", out]) == 0
    steps = [entry for entry in load_records(out).records if isinstance(entry, Steps)]
    good = {entry.completion: entry.good for entry in steps}
    assert good == {"🙂 fine line\n🙂 bad line\nfine again": (True, False, True), "other": (True,)}
    assert main(["label", "answers", *given, "--kind", "spans", "--labels", "loud", "--out", out]) == 2


def test_the_database_keeps_what_was_said_on_each(on_each: Studio) -> None:
    studio = on_each
    project = asked(studio)
    ann = person(studio)
    got = studio.lease(project, ann)
    assert got is not None
    answers = tuple(QuestionAnswer(**entry) for entry in RATED)
    span = Span(question="wrong", place=0, start=0, end=1, label="untrue")
    studio.submit(got.token, ann, Answer(choice="tie", answers=answers, spans=(span,)), key="first key")

    def run(statement: str) -> None:
        with studio.write() as session:
            session.execute(text(statement))

    for statement in ("DELETE FROM question_answer", "UPDATE span SET label = 'x'"):
        with pytest.raises(DBAPIError):
            run(statement)
    with studio.read() as session:
        assert len(session.scalars(select(studio_models.QuestionAnswerRow)).all()) == 2
    best = studio.create_project(ProjectSettings(name="b", kind="best_worst")).id
    studio.store.database.migrate("0011")
    studio.store.database.migrate()
    assert (studio.project(best).settings.kind, studio.project(project).settings.questions) == ("rank", ())


def test_forms_and_the_api_set_questions_without_touching_each_other(studio: Studio) -> None:
    project = asked(studio, questions=())
    boss, ann = Person(studio, "boss", "admin"), Person(studio)
    path = f"/projects/{project}/questions"
    reply = boss.send("PUT", path, {"yaml": YAML})
    assert reply.status_code == 200
    assert reply.json()["yaml"].startswith("- name: correct")
    assert ann.send("PUT", path, {"yaml": ""}).status_code == 403
    seen = boss.send("POST", f"{path}/preview", {"questions": [{"name": "x", "kind": "text"}]}).json()
    assert (seen["questions"][0]["wording"], len(studio.project(project).settings.questions)) == ("x", 4)
    wrong = boss.send("POST", f"{path}/preview", {"yaml": "- {name: x}"})
    assert (wrong.status_code, "kind is missing" in wrong.json()["detail"]) == (422, True)
    settings = {"name": "renamed", "kind": "pair", "overlap": 9}
    assert boss.send("PUT", f"/projects/{project}", settings).status_code == 200
    assert len(studio.project(project).settings.questions) == 4
    assert "correct" in boss.client.get(f"/admin/projects/{project}/questions").text
    item = ann.next(project)
    ann.submit(item["token"], {"choice": "tie", "answers": RATED})
    changed = boss.send("PUT", path, {"questions": [{"name": "correct", "kind": "text"}]})
    assert "has answers of another kind" in changed.json()["detail"]


def test_best_and_worst_become_a_ranking(studio: Studio) -> None:
    store = studio.store
    ids = fill(store, 1, k=4, mark="k")
    project = studio.create_project(ProjectSettings(name="b", kind="best_worst")).id
    studio.add_tasks(project, store.add_items([ids], kind="rank"))
    ann = Person(studio)
    item = ann.next(project)
    for wrong in ([[0], [1]], [[0], [1, 2], [3], []], [[0, 1], [2], [3]]):
        answer = ann.submit(item["token"], {"choice": "ranking", "ranking": wrong})
        assert (answer.status_code, "the best place, all others" in answer.text) == (422, True)
    assert ann.submit(item["token"], {"choice": "ranking", "ranking": [[2], [0, 3], [1]]}).status_code == 200
    (ranking,) = store.rankings().records
    texts = item["sources"]
    assert (ranking.completions[0], ranking.completions[-1]) == (texts[2], texts[1])
    pairs = {(entry.chosen, entry.rejected) for entry in ranking.comparisons()}
    assert len(pairs) == 5  # nothing is said of the two between
    assert (texts[2], texts[1]) in pairs


def test_a_judge_suggests_to_some_and_its_influence_is_measured(studio: Studio) -> None:
    items = list(studio.store.add_pairs().ids)
    judge = studio.store.add_annotator("judge", kind="ai")
    for at in items[:4]:
        studio.store.add_judgement(Judgement(item=at, annotator=judge, choice="a", order_shown=(0, 1)))
    with pytest.raises(InputError, match="'nobody', which is no judge in the store; it has judge"):
        asked(studio, suggest_from="nobody", suggest_share=0.5)
    project = asked(studio, questions=(), suggest_from="judge", suggest_share=0.5)
    first = {item.completions[0] for item in studio.store.items()}
    shown = 0
    for number in range(8):
        who = person(studio, f"p{number}")
        while (got := studio.lease(project, who)) is not None:
            a = "first" if got.completions[0] in first else "second"
            if got.suggestion:
                assert got.suggestion == a  # by the places that this person sees
                shown += 1
            sways: Any = a if got.suggestion else "tie"
            studio.submit(got.token, who, Answer(choice=sways), key=got.token)
    with studio.read() as session:
        found = suggestions.influence(session, project)
    assert (found.shown.n, found.shown.n + found.hidden.n) == (shown, 32)  # two items have no verdict
    assert 8 <= shown <= 24
    assert found.change is not None
    assert (found.shown.value, found.hidden.value, found.change.value) == (1, 0, 1)
    assert found.change.low > 0.5
    page = Person(studio, "boss", "admin").client.get(f"/admin/projects/{project}/questions").text
    assert "+100 points" in page
    ann = Person(studio, "zoe")
    assert "judge" not in json.dumps(ann.send("GET", f"/projects/{project}").json()["settings"])
    changed = replace(studio.project(project).settings, suggest_from="", suggest_share=0.0)
    studio.change_project(project, changed)
    assert ann.next(project)["suggestion"] == ""


def test_known_answers_come_without_a_suggestion(studio: Studio) -> None:
    (item, *_) = studio.store.add_pairs().ids
    judge = studio.store.add_annotator("judge", kind="ai")
    studio.store.add_judgement(Judgement(item=item, annotator=judge, choice="a", order_shown=(0, 1)))
    settings = ProjectSettings(name="p", suggest_from="judge", suggest_share=1.0, qualify_items=1)
    project = studio.create_project(settings).id
    studio.add_tasks(project, [item], gold={item: "b"}, stage="qualification")
    item = Person(studio).next(project)
    assert (item["stage"], item["suggestion"]) == ("qualification", "")


def test_the_command_line_prints_and_sets_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = str(tmp_path / "s.db"), tmp_path / "q.yaml"
    with Store.open(path) as store:
        Studio(store).create_project(ProjectSettings(name="Helpful"))
    file.write_text(YAML)
    assert main(["label", "questions", "Helpful", "--store", path, "--file", str(file)]) == 0
    assert "4 further questions (correct, tone, wrong, why)" in capsys.readouterr().out
    assert main(["label", "questions", "Helpful", "--store", path]) == 0
    assert read_yaml(capsys.readouterr().out) == read_yaml(YAML)
    file.write_text("- name: x\n  kind: stars\n")
    assert main(["label", "questions", "Helpful", "--store", path, "--file", str(file)]) == 2
    assert f"{file}: question 'x': kind is 'stars'" in capsys.readouterr().err
    assert main(["label", "answers", "--store", path, "--out", str(tmp_path / "a.jsonl")]) == 2
    assert "no answers to export" in capsys.readouterr().err
