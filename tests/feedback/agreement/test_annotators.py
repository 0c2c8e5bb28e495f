"""Annotator models against planted annotators and enumeration; figures, aggregation and disagreement by hand."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.special import betaln

from bench.annotators import crowd, measure
from prefloop.feedback.agreement import (
    MISSING,
    Labels,
    PairChoice,
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
from prefloop.feedback.agreement.annotator_models import SHARES, STRENGTHS


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


def exactly(table: np.ndarray, model: str) -> tuple[np.ndarray, np.ndarray]:
    """P(truth of each item is the second answer) and each annotator's share of right answers, by enumerating every truth.

    Given the truth the classes' prior and π integrate to Beta functions; the crowd's share and strength are summed over their grid.
    """
    items, people = table.shape
    weights, shares = [], []
    truths = list(product((0, 1), repeat=items))
    for truth in truths:
        right = np.array([[[(table[i, j] == k) for i in range(items) if truth[i] == k and table[i, j] >= 0] for k in (0, 1)] for j in range(people)], dtype=object)  # fmt: skip
        counts = np.array([[(sum(cell), len(cell) - sum(cell)) for cell in row] for row in right], float)
        if model == "one_coin":
            counts = counts.sum(1, keepdims=True)  # [people, 1 or 2 rows, right and wrong]
        second = sum(truth)
        total, mean = 0.0, np.zeros(people)
        for m, s in product(SHARES, STRENGTHS):
            at = 0.5 + 0.5 * m
            a, b = s * at, s * (1 - at)
            each = betaln(counts[..., 0] + a, counts[..., 1] + b) - betaln(a, b)
            weight = np.exp(each.sum() + betaln(second + 1, items - second + 1))
            rows = (counts[..., 0] + a) / (counts.sum(-1) + s)
            common = np.array([items - second + 1, second + 1]) / (items + 2)
            mean += weight * (rows[:, 0] if model == "one_coin" else rows @ common)
            total += weight
        weights.append(total)
        shares.append(mean)
    chance = np.array(weights) / np.sum(weights)
    return chance @ np.array(truths), np.sum(shares, 0) / np.sum(weights)


@pytest.mark.parametrize("model", ["dawid_skene", "one_coin"])
def test_sampling_comes_to_what_enumeration_gives(model):
    table = np.array([[0, 0, 1], [1, 1, 1], [0, 1, MISSING], [1, 0, 0], [0, 0, 0], [1, MISSING, 1]])
    found = fit_annotators(make_labels(table, ("a", "b")), model, sweeps=6000)
    truth, shares = exactly(table, model)
    assert found.posterior[:, 1] == pytest.approx(truth, abs=0.03)
    assert found.accuracy == pytest.approx(shares, abs=0.02)


@pytest.mark.parametrize("model", ["dawid_skene", "one_coin"])
def test_what_annotator_models_do_not_depend_on(model):
    seed = 3
    labels, _ = planted(seed, items=40)
    random = np.random.default_rng(seed)
    expected = fit_annotators(labels, model)
    items, people, names = random.permutation(40), random.permutation(5), random.permutation(3)
    table = labels.table[np.ix_(items, people)]
    moved = make_labels(np.where(table == MISSING, MISSING, names[table]), labels.categories)
    got = fit_annotators(moved, model)
    # but for the noise of sampling
    assert got.posterior[:, names] == pytest.approx(expected.posterior[items], abs=0.15)
    assert np.abs(got.posterior[:, names] - expected.posterior[items]).mean() < 0.02
    assert got.accuracy == pytest.approx(expected.accuracy[people], abs=0.03)
    assert (fit_annotators(labels, model).posterior == expected.posterior).all()


def test_an_item_without_labels_has_the_prior():
    labels = make_labels([[0, 0], [0, 1], [MISSING, MISSING]], ("a", "b"))
    found = fit_annotators(labels)
    assert found.posterior[2] == pytest.approx(found.prior, abs=0.02)


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
        PairChoice(
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
            PairChoice(annotator="x", item=at, choice="a" if at < left else "b", left="a", seconds=0.0)
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


@pytest.mark.parametrize("model", ["dawid_skene", "one_coin"])
@pytest.mark.parametrize(
    ("accuracies", "items", "each", "times", "most"),
    [
        ((0.6, 0.95), 150, 4, 20, 0.03),
        ((0.6, 0.95), 20, 2, 25, 0.06),
        ((0.5, 0.8), 60, 3, 20, 0.07),  # one best fit would be too sure by 0.13
    ],
)
def test_probabilities_are_as_often_right_as_they_say(
    model, accuracies, items, each, times, most
) -> None:  # V3
    found = measure(model, items, each, accuracies, times=times)
    assert found.too_sure == pytest.approx(0, abs=most)
    assert found.held > (0.9 if model == "one_coin" else 0.85)
    assert found.error == pytest.approx(0, abs=2 * most)


def test_answers_that_nobody_gave_have_no_probability() -> None:
    labels, _, _ = crowd(np.random.default_rng(0), 20, 3, (0.6, 0.95))
    posterior = fit_annotators(labels).posterior
    assert (posterior[:, 2:] == 0).all()
    assert posterior.sum(1) == pytest.approx(np.ones(20))


def test_wrong_answers_are_those_that_people_use() -> None:  # V3
    # One of three disagrees. Categories that nobody named change nothing.
    table = [[0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 1]] * 8
    two, four = (
        fit_annotators(make_labels(table, names), "one_coin") for names in (("a", "b"), ("a", "b", "t", "bb"))
    )
    assert four.posterior[:, :2] == pytest.approx(two.posterior)
    assert four.accuracy == pytest.approx(two.accuracy)
