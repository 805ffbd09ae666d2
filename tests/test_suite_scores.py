"""Scores of suites: the same as the metrics', with chance, ties, gaps and labels of people."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from suite_toys import toy_records

from neurofm import metrics, stats
from neurofm.evaluate.decisions import decide, decided, over_people
from neurofm.evaluate.predictions import Predictions, outcomes, permutation_p
from neurofm.evaluate.scoring import METRICS, choices, confusion_counts, score_labels
from neurofm.evaluate.suite_results import score

OTHER = {
    "balanced_accuracy": metrics.balanced_accuracy,
    "accuracy": metrics.accuracy,
    "kappa": metrics.cohen_kappa,
    "macro_f1": metrics.macro_f1,
}
OF_PROBABILITIES = {
    "auroc": metrics.auroc,
    "auprc": metrics.average_precision,
    "calibration_error": metrics.expected_calibration_error,
    "brier": metrics.brier_score,
    "log_loss": metrics.log_loss,
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_many_labels_at_once_give_what_the_metrics_give_one_by_one(name, n_classes):
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, (5, 30))
    p = rng.dirichlet(np.ones(n_classes), 30)
    expected = [
        OTHER[name](own, p.argmax(1)) if name in OTHER else OF_PROBABILITIES[name](own, p)
        for own in y
    ]
    np.testing.assert_allclose(score_labels(name, y, p), expected, atol=1e-12)


def test_areas_share_ties_and_are_undefined_for_one_class():
    y, score_of = np.array([[0, 1, 1, 0, 1]]), np.array([0.2, 0.2, 0.8, 0.5, 0.5])
    p = np.c_[1 - score_of, score_of]
    for name in ("auroc", "auprc"):
        assert score_labels(name, y, p)[0] == pytest.approx(OF_PROBABILITIES[name](y[0], p))
        assert np.isnan(score_labels(name, np.ones((1, 5), int), p)[0])
    assert np.isnan(score_labels("kappa", np.ones((1, 5), int), np.tile([0.1, 0.9], (5, 1)))[0])
    with pytest.raises(ValueError, match="is not one of balanced_accuracy"):
        score_labels("acuracy", y, p)


def test_equal_probabilities_are_chance_whatever_the_order_of_the_classes():
    y, p = np.array([[0, 0, 0, 1]]), np.full((4, 2), 0.5)
    for name, expected in {"accuracy": 0.5, "balanced_accuracy": 0.5, "kappa": 0.0}.items():
        assert score_labels(name, y, p)[0] == pytest.approx(expected)
    np.testing.assert_allclose(confusion_counts(y[0], p), [[1.5, 1.5], [0.5, 0.5]])
    np.testing.assert_allclose(choices(np.array([[0.4, 0.4, 0.2]])), [[0.5, 0.5, 0.0]])


def test_a_person_is_scored_over_all_windows_and_areas_fold_by_fold():
    records = toy_records({"a": 1.0}, people=3, folds=2, seeds=(0, 1))
    made = Predictions.of(records)
    found = outcomes(made, ["accuracy", "auroc"], n_permutations=0)
    person = "002"
    by_seed: dict[str, list[float]] = {"accuracy": [], "auroc": []}
    for seed in (0, 1):
        own = [r for r in records if r["seed"] == seed]
        parts = []
        for record in own:
            mine = np.array(record["test"]["subject"]) == person
            parts.append((np.array(record["test"]["y"])[mine], np.array(record["test"]["p"])[mine]))
        y, p = (np.concatenate(side) for side in zip(*parts, strict=True))
        by_seed["accuracy"].append(metrics.accuracy(y, p.argmax(1)))
        by_seed["auroc"].append(np.mean([metrics.auroc(*part) for part in parts]))
    for name, values in by_seed.items():
        assert found[name].people[person] == pytest.approx(np.mean(values), abs=1e-3)
        assert found[name].null is None


def test_labels_may_be_names_and_people_may_be_in_one_fold_only():
    record = toy_records({"a": 1.0}, people=2, folds=1, trials=4)[0]
    named = {**record, "test": {**record["test"]}}
    named["test"]["y"] = [record["classes"][i] for i in record["test"]["y"]]
    np.testing.assert_array_equal(Predictions.of([named]).y, Predictions.of([record]).y)


def broken(record: dict[str, Any], what: str) -> dict[str, Any]:
    test = {key: list(value) for key, value in record["test"].items()}
    if what == "short":
        test["p"] = test["p"][:-1]
    elif what == "nan":
        test["p"][0] = [float("nan"), 0.5]
    elif what == "unknown class":
        test["y"][0] = 2
    else:
        return {**record, "classes": ["feet", "hands"]}
    return {**record, "test": test}


@pytest.mark.parametrize("what", ["short", "nan", "unknown class", "other classes"])
def test_a_record_that_does_not_fit_is_named(what):
    good, bad = toy_records({"a": 1.0}, people=2, folds=2, trials=4)
    bad = broken({**bad, "key": "beef"}, what)
    with pytest.raises(ValueError, match="record beef: predictions"):
        Predictions.of([good, bad])


def test_shuffled_labels_find_an_effect_and_its_chance_level():
    made = Predictions.of(toy_records({"a": 1.5}, people=6))
    for name, at in {"balanced_accuracy": 0.5, "auroc": 0.5, "kappa": 0.0}.items():
        found = outcomes(made, [name], n_permutations=300)[name]
        assert found.null is not None and found.value > found.null.max()
        assert found.null.mean() == pytest.approx(at, abs=0.02)
        assert permutation_p(name, found) == pytest.approx(1 / 301)
    loss = outcomes(made, ["log_loss"], n_permutations=300)["log_loss"]
    assert permutation_p("log_loss", loss) == pytest.approx(1 / 301)  # smaller is better


def test_false_positives_of_the_permutation_stay_rare_and_p_is_uniform_under_the_null():
    rng = np.random.default_rng(8)
    base = Predictions.of(toy_records({"a": 0.0}, people=4, folds=2, trials=12))
    p = []
    for _ in range(200):
        guessed = rng.dirichlet([3, 3], len(base.y))
        found = outcomes(replace(base, p=guessed), ["auroc"], n_permutations=99)["auroc"]
        p.append(permutation_p("auroc", found))
    assert np.mean(np.array(p) <= 0.05) <= scipy.stats.binom.ppf(0.999, 200, 0.05) / 200
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.001


def test_predicting_the_recording_is_not_better_than_chance():
    # Classes of unequal share in each recording, and a decoder that knows the recording alone.
    record = toy_records({"a": 0.0}, people=4, folds=1, trials=20)[0]
    test = record["test"]
    run = np.arange(len(test["y"])) // 10 % 2
    test["recording"] = [f"{s} {r}" for s, r in zip(test["subject"], run, strict=True)]
    test["y"] = [int((i % 10 < 8) == r) for i, r in enumerate(run)]
    test["p"] = [[0.8, 0.2] if r == 0 else [0.2, 0.8] for r in run]
    found = outcomes(Predictions.of([record]), ["accuracy"], n_permutations=200)["accuracy"]
    assert found.value == pytest.approx(0.8)
    assert permutation_p("accuracy", found) == 1.0


def test_recordings_of_one_class_have_no_chance_level():
    record = toy_records({"a": 1.0}, people=3, folds=1, trials=8)[0]
    test = record["test"]
    test["recording"] = [f"{s} {y}" for s, y in zip(test["subject"], test["y"], strict=True)]
    (item,) = score([record], names=["balanced_accuracy"], order=["a"], n_permutations=50)
    assert "permutation" not in item.result.detail
    assert item.result.chance == 0.5


def test_an_undefined_person_is_left_out_and_counted():
    record = toy_records({"a": 1.0}, people=4, folds=1, trials=8)[0]
    test = record["test"]
    test["y"] = [0 if s == "001" else y for s, y in zip(test["subject"], test["y"], strict=True)]
    (item,) = score([record], names=["auroc"], order=["a"], n_permutations=20)
    assert item.result.n == 3
    assert "001" not in item.people and not np.isnan(item.result.value)


def test_two_people_have_no_interval_and_one_person_scores():
    for people in (1, 2):
        records = toy_records({"a": 1.0}, people=people)
        (item,) = score(records, names=["balanced_accuracy"], order=["a"], n_permutations=20)
        assert item.result.n == people
        assert item.result.low is None and item.result.high is None


def test_seeds_together_are_the_mean_probability_at_the_cost_of_all():
    records = toy_records({"a": 1.0}, people=3, seeds=(0, 1))
    alone, together = score(records, names=["log_loss"], order=["a"], n_permutations=20)
    assert together.line == ("a", "none", "trained, 2 seeds together")
    assert (alone.members, together.members) == (1, 2)
    assert together.decoder_s == 2 * alone.decoder_s
    assert together.result.value < alone.result.value  # a mean of probabilities is never worse
    first, second = ([r for r in records if r["seed"] == seed] for seed in (0, 1))
    mean = (Predictions.of(first).p + Predictions.of(second).p) / 2
    assert together.predictions is not None
    np.testing.assert_allclose(together.predictions.p, mean)


def test_seeds_that_say_the_same_or_know_other_labels_are_not_put_together():
    records = toy_records({"a": 1.0}, people=3, seeds=(0,))
    same = records + [{**r, "seed": 1, "key": f"{r['key']}b"} for r in records]
    assert len(score(same, names=["auroc"], order=["a"], n_permutations=20)) == 1
    drawn = toy_records({"a": 1.0}, people=3, seeds=(0, 1), share=0.5)
    drawn = [{**r, "windows": f"{r['windows']}-{r['seed']}"} for r in drawn]
    assert len(score(drawn, names=["auroc"], order=["a"], n_permutations=20)) == 1


def test_scores_of_people_alone_are_averaged_and_miss_what_they_cannot_say():
    base = {"dataset": "d", "protocol": "p", "method": "a", "weights": "none", "share": 1.0}
    base |= {"reading": "trained", "n_train": 10, "cpu_s": 1.0, "windows": "w", "key": "k"}
    values = {0: 0.6, 1: 0.8}
    records = [
        {**base, "fold": 0, "seed": s, "people": {f"{i}": {"kappa": v} for i in range(3)}}
        for s, v in values.items()
    ]
    (item,) = score(records, names=["kappa", "auroc"], order=["a"])
    assert list(item.results) == ["kappa"] and item.predictions is None
    assert item.result.value == pytest.approx(0.7)
    assert item.result.chance == 0.0 and item.seeds == 2
    with pytest.raises(ValueError, match="record k: no auroc"):
        score(records, names=["auroc"], order=["a"])


LABELS = {f"{i + 1:03d}": i % 2 for i in range(10)}


def test_labels_of_people_are_decided_once_per_person():
    records = toy_records({"a": 1.0}, people=10, folds=1, trials=15, label_of=LABELS)
    made = Predictions.of(records)
    assert made.one_class_each
    for rule in ("majority vote", "mean probability"):
        one = decide(made, rule)
        assert one.person.tolist() == sorted(LABELS)
        assert one.y.tolist() == [LABELS[name] for name in one.person]
        own = made.person == "004"
        said = choices(made.p[own]) if rule == "majority vote" else made.p[own]
        np.testing.assert_allclose(one.p[3], said.mean(0), atol=1e-9)
    with pytest.raises(ValueError, match="not one of majority vote"):
        decide(made, "median")
    with pytest.raises(ValueError, match="label per person"):
        decide(Predictions.of(toy_records({"a": 1.0})), "majority vote")


def test_ties_of_votes_count_half_and_are_said():
    record = toy_records({"a": 0.0}, people=4, folds=1, trials=2, label_of=LABELS)[0]
    sure = {0: [0.9, 0.1], 1: [0.2, 0.8]}
    # Everybody has one vote for each class; the probabilities favour class 0.
    record["test"]["p"] = [sure[i % 2] for i in range(8)]
    vote, mean = decided(Predictions.of([record]), n_permutations=50, n_resamples=50)
    assert vote.ties == 4 and vote.results["accuracy"].value == 0.5
    assert vote.results["balanced_accuracy"].value == 0.5
    assert mean.ties == 0 and mean.results["accuracy"].value == 0.5
    record["test"]["p"] = [sure[LABELS[s]] for s in record["test"]["subject"]]
    vote, mean = decided(Predictions.of([record]), n_permutations=50, n_resamples=50)
    assert vote.results["accuracy"].value == mean.results["auroc"].value == 1.0


def test_windows_of_people_with_labels_of_their_own_are_scored_all_together():
    made = Predictions.of(toy_records({"a": 1.0}, people=10, folds=1, label_of=LABELS))
    found = over_people(made, ["auroc", "balanced_accuracy"], n_permutations=100)
    assert found["auroc"].value == pytest.approx(metrics.auroc(made.y, made.p))
    assert found["auroc"].n == 10
    right = {n: np.mean((made.p.argmax(1) == made.y)[made.person == n]) for n in LABELS}
    assert found["auroc"].detail["people"] == pytest.approx(right)
    assert found["auroc"].low < found["auroc"].value < found["auroc"].high
    assert found["auroc"].detail["permutation"]["p"] < 0.05


def test_people_who_are_alike_inside_do_not_make_an_effect_of_their_windows():
    # A hundred windows that say the same are one person: chance exchanges people, not windows.
    rng, p = np.random.default_rng(2), []
    base = Predictions.of(toy_records({"a": 0.0}, people=8, folds=1, label_of=LABELS))
    for _ in range(100):
        each = dict(zip(base.people, rng.dirichlet([2, 2], 8), strict=True))
        said = replace(base, p=np.array([each[name] for name in base.person]))
        found = over_people(said, ["auroc"], n_permutations=99, n_resamples=5)
        p.append(found["auroc"].detail["permutation"]["p"])
    assert np.mean(np.array(p) <= 0.05) <= scipy.stats.binom.ppf(0.999, 100, 0.05) / 100


def test_the_interval_of_a_score_holds_the_truth_as_often_as_it_says():
    rng, n = np.random.default_rng(3), 200
    inside = 0
    for _ in range(n):
        low, high = stats.bootstrap_interval(rng.normal(0.6, 0.1, 20), n_resamples=1000)
        inside += low <= 0.6 <= high
    assert inside / n > 0.88  # 0.93 with twenty people
