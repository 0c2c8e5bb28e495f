"""Annotator models against planted annotators and loops; figures, aggregation and disagreement by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.feedback.agreement import (
    MISSING,
    Answer,
    Labels,
    Share,
    aggregate,
    agreement_matrix,
    disagreements,
    figures,
    fit_annotators,
    leave_one_out,
    make_labels,
    preference,
)


def planted(seed: int, *, items: int = 400, accuracies=(0.95, 0.8, 0.7, 0.6, 0.5), classes: int = 3):
    """Labels of annotators with known accuracies, errors spread evenly, a fifth missing; and the truth."""
    random = np.random.default_rng(seed)
    truth = random.choice(classes, items, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    columns = []
    for accuracy in accuracies:
        wrong = (truth + random.integers(1, classes, items)) % classes
        columns.append(np.where(random.random(items) < accuracy, truth, wrong))
    table = np.where(random.random((items, len(accuracies))) < 0.2, MISSING, np.stack(columns, 1))
    return make_labels(table, tuple(range(classes)), tuple(f"p{at}" for at in range(len(accuracies)))), truth


@pytest.mark.parametrize("model", ["dawid_skene", "one_coin"])
def test_planted_annotators_are_found(model):
    labels, truth = planted(0, items=2000)
    found = fit_annotators(labels, model)
    assert found.accuracy == pytest.approx([0.95, 0.8, 0.7, 0.6, 0.5], abs=0.05)
    assert found.prior == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.04)
    right = (found.posterior.argmax(1) == truth).mean()
    majority = (labels.counts.argmax(1) == truth).mean()
    assert right > majority + 0.02
    # calibrated: what is said with 90 % is right 90 % of the time
    sure = found.posterior.max(1)
    assert sure.mean() == pytest.approx(right, abs=0.02)


@pytest.mark.parametrize("model", ["dawid_skene", "one_coin"])
def test_the_objective_never_falls_and_is_stationary(model):
    labels, _ = planted(1, items=60)
    found = fit_annotators(labels, model, tolerance=1e-13, steps=5000)
    assert (np.diff(found.objective) > -1e-9).all()
    # One more step of EM, written as loops, changes nothing.
    k = 3
    for j in range(5):
        counts = np.array([[2.0 if a == b else 1.0 for b in range(k)] for a in range(k)])
        for i in range(60):
            if labels.table[i, j] != MISSING:
                for c in range(k):
                    counts[c, labels.table[i, j]] += found.posterior[i, c]
        if model == "dawid_skene":
            expected = counts / counts.sum(1, keepdims=True)
        else:
            p = np.trace(counts) / counts.sum()
            expected = np.where(np.eye(k, dtype=bool), p, (1 - p) / (k - 1))
        assert found.confusion[j] == pytest.approx(expected, abs=1e-4)
    for i in range(60):
        chance = found.prior.copy()
        for j in range(5):
            if labels.table[i, j] != MISSING:
                chance *= found.confusion[j, :, labels.table[i, j]]
        assert found.posterior[i] == pytest.approx(chance / chance.sum(), abs=1e-9)


@given(seed=st.integers(0, 50), model=st.sampled_from(["dawid_skene", "one_coin"]))
@settings(max_examples=10)
def test_what_annotator_models_do_not_depend_on(seed: int, model):
    labels, _ = planted(seed, items=40)
    random = np.random.default_rng(seed)
    expected = fit_annotators(labels, model)
    items, people, names = random.permutation(40), random.permutation(5), random.permutation(3)
    table = labels.table[np.ix_(items, people)]
    moved = make_labels(np.where(table == MISSING, MISSING, names[table]), labels.categories)
    got = fit_annotators(moved, model)
    assert got.posterior[:, names] == pytest.approx(expected.posterior[items], abs=1e-4)
    assert got.accuracy == pytest.approx(expected.accuracy[people], abs=1e-4)


def test_an_item_without_labels_has_the_prior():
    labels = make_labels([[0, 0], [0, 1], [MISSING, MISSING]], ("a", "b"))
    found = fit_annotators(labels)
    assert found.posterior[2] == pytest.approx(found.prior, abs=1e-6)


def test_few_labels_do_not_make_somebody_perfect():
    labels = make_labels([[0, 0], [1, 1], [0, 0]], ("a", "b"))
    assert (fit_annotators(labels).accuracy < 0.9).all()


def test_nothing_to_fit():
    with pytest.raises(ValueError, match="no label"):
        fit_annotators(make_labels([[MISSING, MISSING]], ("a", "b")))
    with pytest.raises(ValueError, match="two or more"):
        fit_annotators(make_labels([[0, 0]], ("a",)))


def test_share_by_hand():
    # Wilson, 8 of 10: the textbook's 0.4902 to 0.9433
    share = Share.of(8, 10)
    assert (share.low, share.high) == (pytest.approx(0.490162, abs=1e-6), pytest.approx(0.943318, abs=1e-6))
    assert math.isnan(Share.of(0, 0).value)
    assert Share.of(0, 0).to_json()["value"] is None


NAMES = ("ann", "bob", "cy")
TABLE: Labels = make_labels(
    [[0, 0, 1], [0, 0, 0], [2, 2, 0], [1, MISSING, MISSING], [0, 1, MISSING]],
    ("a", "b", "tie", "both_bad"),
    NAMES,
)


def test_leave_one_out_by_hand():
    agreeing, compared = leave_one_out(TABLE)
    # ann: item 0 others {a, b} undecided; 1 {a, a} agrees; 2 {tie, a} undecided; 3 none; 4 {b} disagrees
    # cy: item 0 {a, a} disagrees; 1 agrees; 2 {tie, tie} disagrees
    assert compared.tolist() == [2, 2, 3]
    assert agreeing.tolist() == [1, 1, 1]


def test_figures_by_hand():
    answers = [
        Answer(
            annotator=NAMES[column], item=row, choice=TABLE.categories[label], left="a", seconds=float(row)
        )
        for row, labels in enumerate(TABLE.table)
        for column, label in enumerate(labels)
        if label != MISSING
    ]
    ann, bob, cy = figures(answers, TABLE, gold={0: "a", 3: "a", 4: "b"})
    assert (ann.answers, ann.ties.value, ann.both_bad.value) == (5, 0.2, 0.0)
    assert (ann.first_shown.value, ann.first_shown.n) == (0.75, 4)
    assert ann.seconds == 2.5  # 1, 2, 3, 4; the one that was not timed does not count
    assert (ann.gold.value, ann.gold.n) == (pytest.approx(1 / 3), 3)
    assert (bob.gold.value, cy.gold.value) == (1.0, 0.0)
    assert cy.with_others.value == pytest.approx(1 / 3)
    assert 0 < cy.accuracy.value < ann.accuracy.value < 1


def test_position_bias_needs_the_interval():
    def figure(left: int, n: int):
        answers = [
            Answer(annotator="x", item=at, choice="a" if at < left else "b", left="a", seconds=0.0)
            for at in range(n)
        ]
        (one,) = figures(answers, make_labels([[0]] * n, ("a", "b"), ("x",)))
        return one

    assert figure(90, 100).position_bias
    assert not figure(6, 10).position_bias
    assert math.isnan(figure(6, 10).accuracy.value)
    assert math.isnan(figure(6, 10).seconds)


def test_agreement_matrix_by_hand():
    raw, kappa, common = agreement_matrix(TABLE)
    assert common.tolist() == [[0, 4, 3], [4, 0, 3], [3, 3, 0]]
    assert raw[0, 1] == pytest.approx(3 / 4)
    assert raw[0, 1] == raw[1, 0]
    assert math.isnan(raw[0, 0])
    # ann and bob: p_o 3/4; ann says a 3/4, tie 1/4; bob a 2/4, b 1/4, tie 1/4: p_e 6/16 + 1/16
    assert kappa[0, 1] == pytest.approx((3 / 4 - 7 / 16) / (9 / 16))


def test_aggregates_by_hand():
    found = aggregate(TABLE)
    assert found.label.tolist() == [0, 0, 2, 1, -1]
    assert found.votes.tolist() == [3, 3, 3, 1, 2]
    assert found.agreement == pytest.approx([2 / 3, 1, 2 / 3, 1, 0])
    # sides plus half of what names none
    assert preference(found.probability) == pytest.approx([2 / 3, 1, 2 / 3, 0, 1 / 2])
    with pytest.raises(ValueError, match="how is"):
        aggregate(TABLE, "vote")  # pyright: ignore[reportArgumentType]


def test_a_soft_label_trusts_the_better_annotator():
    labels, _ = planted(3, items=600, accuracies=(0.95, 0.95, 0.55, 0.55), classes=2)
    extra = make_labels(np.vstack([labels.table, [[0, 0, 1, 1]]]), (0, 1))
    assert preference(aggregate(extra).probability)[-1] == 0.5
    assert preference(aggregate(extra, "dawid_skene").probability)[-1] > 0.95


def test_disagreements_by_hand():
    order, how_much = disagreements(TABLE)
    # item 4: 1 of 1 pairs differs; items 0 and 2: 2 of 3
    assert order.tolist() == [4, 0, 2]
    assert how_much == pytest.approx([1, 2 / 3, 2 / 3])


def people(seed: int, items: int, per_item: int) -> tuple[Labels, np.ndarray, np.ndarray]:
    """Six annotators of accuracy 0.6 to 0.95 who use two of four answers; their accuracies, and the truth."""
    random = np.random.default_rng(seed)
    accuracy, truth = random.uniform(0.6, 0.95, 6), random.integers(2, size=items)
    table = np.full((items, 6), MISSING)
    for row in table:
        row[random.choice(6, per_item, replace=False)] = 0
    right = random.random(table.shape) < accuracy
    table = np.where(table == MISSING, MISSING, np.where(right, truth[:, None], 1 - truth[:, None]))
    return make_labels(table, ("a", "b", "tie", "both bad")), accuracy, truth


@pytest.mark.parametrize("model", ["dawid_skene", "one_coin"])
def test_probabilities_are_as_often_right_as_they_say(model) -> None:  # V3
    said, right = [], []
    for seed in range(25):
        labels, _, truth = people(seed, 150, 4)
        posterior = fit_annotators(labels, model).posterior
        assert (posterior[:, 2:] == 0).all()  # nobody said so
        said += posterior.max(1).tolist()
        right += (posterior.argmax(1) == truth).tolist()
    assert np.mean(said) == pytest.approx(np.mean(right), abs=0.03)


def test_wrong_answers_are_those_that_people_use() -> None:  # V3
    # One of three disagrees. Categories that nobody named change nothing.
    table = [[0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 1]] * 8
    two, four = (
        fit_annotators(make_labels(table, names), "one_coin") for names in (("a", "b"), ("a", "b", "t", "bb"))
    )
    assert four.posterior[:, :2] == pytest.approx(two.posterior)
    assert four.accuracy == pytest.approx(two.accuracy)


@pytest.mark.parametrize(("items", "per_item"), [(14, 3), (60, 3), (150, 4)])
def test_reliability_is_near_and_its_interval_holds(items: int, per_item: int) -> None:  # V3
    errors, held = [], []
    for seed in range(25):
        labels, accuracy, _ = people(seed, items, per_item)
        value, low, high = fit_annotators(labels).reliability
        errors += (value - accuracy).tolist()
        held += ((low <= accuracy) & (accuracy <= high)).tolist()
    assert np.mean(errors) == pytest.approx(0, abs=0.03)
    assert np.mean(held) > 0.9
