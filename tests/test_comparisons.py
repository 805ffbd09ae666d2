"""Comparisons of methods: the same people, the same windows, corrected, ranked."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from suite_toys import toy_records

from neurofm import stats
from neurofm.evaluate.comparisons import (
    against_reference,
    other_draws,
    other_windows,
    pretraining_gain,
    rankings,
    reference_of,
)
from neurofm.evaluate.suite_results import Scored, score
from neurofm.types import Result

NAMES = [f"{i:03d}" for i in range(12)]


def scored(
    method: str,
    values: dict[str, float],
    *,
    place: tuple[str, str] = ("d", "p"),
    metric: str = "balanced_accuracy",
    windows: str = "w",
    line: tuple[str, str] = ("none", "trained"),
    members: int = 1,
    share: float = 1.0,
) -> Scored:
    known = [v for v in values.values() if not np.isnan(v)]
    result = Result(method, float(np.mean(known)), metric, n=len(known), detail={"people": values})
    return Scored(
        *place,
        (method, *line),
        share,
        {metric: result},
        trials=10,
        seeds=1,
        cpu_s=1.0,
        decoders=1,
        members=members,
        windows={0: frozenset({windows})},
    )


def drawn(seed: int, mean: float = 0.6) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return dict(zip(NAMES, rng.normal(mean, 0.05, len(NAMES)).tolist(), strict=True))


def test_only_people_whom_both_scored_are_compared_and_the_others_counted():
    a, b = drawn(0), drawn(1)
    some = {name: b[name] for name in NAMES[:9]} | {"new": 0.9, NAMES[0]: float("nan")}
    (found,) = against_reference([scored("a", a), scored("b", some)], "a")
    shared = NAMES[1:9]
    test = stats.paired_test([some[n] for n in shared], [a[n] for n in shared])
    assert found.result.n == 8
    assert found.result.value == pytest.approx(test.value)
    assert found.result.detail["p"] == test.p
    assert found.result.detail["left_out"] == 5  # four of a, one of b


def test_methods_on_other_windows_are_not_compared_nor_ranked():
    items = [scored("a", drawn(0)), scored("b", drawn(1)), scored("c", drawn(2), windows="x")]
    assert [item.line[0] for item in against_reference(items, "a")] == ["b"]
    (ranked,) = rankings(items)
    assert [line[0] for line in ranked.lines] == ["a", "b"]
    assert ranked.left_out == ("c none trained: other windows",)


def test_other_draws_of_a_share_of_the_labels_are_compared():
    items = [scored(m, drawn(i), share=0.5, windows=m) for i, m in enumerate("ab")]
    assert other_draws(*items) and not other_windows(*items)
    assert len(against_reference(items, "a")) == 1


def test_the_reference_is_that_of_the_same_place_and_share_and_no_ensemble():
    items = [
        scored("a", drawn(0), place=("d", "q")),
        scored("a", drawn(1), members=3),
        scored("a", drawn(2), share=0.5),
        scored("b", drawn(3)),
    ]
    assert reference_of(items, "a", items[3]) is None
    assert against_reference(items, "a") == []
    items.append(scored("a", drawn(4)))
    assert reference_of(items, "a", items[3]) is items[4]


def test_a_handful_of_people_are_compared_but_not_tested():
    few = [{name: values[name] for name in NAMES[:4]} for values in (drawn(0), drawn(1))]
    many = [drawn(2), drawn(3)]
    found = against_reference(
        [
            *(scored(m, v, place=("few", "p")) for m, v in zip("ab", few, strict=True)),
            *(scored(m, v, place=("many", "p")) for m, v in zip("ab", many, strict=True)),
        ],
        "a",
    )
    small, large = (next(f.result for f in found if f.dataset == d) for d in ("few", "many"))
    assert small.value == pytest.approx(np.mean([few[1][n] - few[0][n] for n in NAMES[:4]]))
    assert np.isnan(small.detail["p"]) and np.isnan(small.detail["p_fdr"])
    assert large.detail["p_fdr"] == large.detail["p"]  # the only test under its heading


def test_comparisons_are_corrected_over_all_places():
    items = [scored(m, drawn(i), place=("d", p)) for p in "pq" for i, m in enumerate("abc")]
    found = against_reference(items, "a")
    assert len(found) == 4
    expected = scipy.stats.false_discovery_control([f.result.detail["p"] for f in found])
    np.testing.assert_allclose([f.result.detail["p_fdr"] for f in found], expected)


def test_pretrained_weights_are_compared_with_random_ones_of_the_same_reading():
    items = [
        scored("m", drawn(i), line=(weights, reading))
        for i, (weights, reading) in enumerate(
            [("pretrained", "fine-tuned"), ("random", "fine-tuned"), ("pretrained", "linear probe")]
        )
    ]
    (found,) = pretraining_gain(items)
    assert found.line == ("m", "pretrained", "fine-tuned")
    assert found.against == ("m", "random", "fine-tuned")


def test_wins_of_a_metric_of_which_less_is_better():
    a, b = drawn(0), {name: value - 0.01 for name, value in drawn(0).items()}
    items = [scored("a", a, metric="log_loss"), scored("b", b, metric="log_loss")]
    (found,) = against_reference(items, "a")
    assert found.result.detail["wins"] == len(NAMES)
    (ranked,) = rankings(items)
    assert ranked.ranks == (2.0, 1.0)


def test_ranks_agree_with_scipy_and_ties_share_them():
    values = [drawn(i, 0.5 + 0.03 * i) for i in range(4)]
    values[3] = dict(values[2])  # the same as another
    (found,) = rankings([scored(m, v) for m, v in zip("abcd", values, strict=True)])
    table = np.array([[v[n] for v in values] for n in NAMES])
    expected = scipy.stats.friedmanchisquare(*table.T)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.ranks == pytest.approx(scipy.stats.rankdata(-table, axis=1).mean(0))
    assert found.ranks[2] == found.ranks[3]
    assert found.pairs[2, 3] == 1.0
    assert found.n == 12 and found.over == "people"
    raw = [scipy.stats.wilcoxon(table[:, 0], table[:, 2]).pvalue]
    assert found.pairs[0, 2] >= raw[0]


def test_who_misses_people_is_left_out_of_ranks_by_name():
    few = {name: drawn(2)[name] for name in NAMES[:5]}
    most = {name: drawn(3)[name] for name in NAMES[:10]}
    items = [scored("a", drawn(0)), scored("b", drawn(1)), scored("few", few), scored("most", most)]
    (found,) = rankings(items)
    assert [line[0] for line in found.lines] == ["a", "b", "most"]
    assert found.n == 10
    assert found.left_out == (
        "few none trained: scored 5 of 12 people",
        "2 people whom not every method scored",
    )


def test_one_person_or_one_method_makes_no_ranks():
    assert rankings([scored("a", {"1": 0.5}), scored("b", {"1": 0.6})]) == []
    assert rankings([scored("a", drawn(0))]) == []


def test_ensembles_and_smaller_shares_stay_out_of_ranks():
    items = [scored(m, drawn(i)) for i, m in enumerate("ab")]
    items += [scored("a", drawn(3), members=3), scored("a", drawn(4), share=0.5)]
    (found,) = rankings(items)
    assert len(found.lines) == 2


def test_data_sets_are_ranked_by_the_mean_over_their_people():
    items = [
        scored(m, drawn(10 * d + i, 0.5 + 0.05 * i), place=(f"d{d}", "p"))
        for d in range(3)
        for i, m in enumerate("abc")
    ]
    items.append(scored("extra", drawn(99), place=("d0", "p")))
    found = [item for item in rankings(items) if item.over == "data sets"]
    assert len(found) == 1 and found[0].n == 3
    assert [line[0] for line in found[0].lines] == ["a", "b", "c"]
    assert found[0].left_out == ("extra none trained: not on every data set",)


def test_methods_without_a_difference_are_seldom_told_apart():
    rng, n, found = np.random.default_rng(4), 60, 0
    for _ in range(n):
        base = rng.normal(0.6, 0.1, 12)
        items = []
        for m in "abcde":
            values = (base + rng.normal(0, 0.05, 12)).tolist()
            items.append(scored(m, dict(zip(NAMES, values, strict=True))))
        found += any(c.result.detail["p_fdr"] <= 0.05 for c in against_reference(items, "a"))
    assert found <= scipy.stats.binom.ppf(0.999, n, 0.05)


def test_a_planted_difference_is_found_and_ordered():
    records = toy_records({"good": 1.4, "fair": 0.9, "none": 0.0}, people=10)
    items = score(
        records,
        names=["balanced_accuracy"],
        order=["good", "fair", "none"],
        n_permutations=100,
        trial_s={("toys", "good"): 2.0},
    )
    (ranked,) = rankings(items)
    assert ranked.ranks[0] < ranked.ranks[1] < ranked.ranks[2]
    assert ranked.p < 0.001 and ranked.pairs[0, 2] < 0.05
    values = [item.result.detail["permutation"]["p"] for item in items]
    assert values[0] < 0.05 and values[1] < 0.05 and values[2] > 0.05
    assert "bits_per_min" in items[0].results and "bits_per_min" not in items[1].results
