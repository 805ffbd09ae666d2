"""Reference numbers of classical decoders on real fMRI, through our own reading, and beyond them.

The reference was computed with scikit-learn alone. Settings of the last decoder were found on these
runs of Haxby's first subject (windows and ways of learning were compared); which of them is used is
chosen anew inside every set of training runs.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import pytest

from neurofm.evaluate.patterns import centre_runs, decode_patterns, trial_patterns
from neurofm.evaluate.searchlight import searchlight
from neurofm.io import open_corpus

pytestmark = pytest.mark.corpus
FINGERS = (1.0, 0.8, 0.943, 0.971, 0.975)


@functools.cache
def runs(name: str, folder: Path, subject: str | None = None) -> list:
    if not (folder / {"finger7t": "finger7T_fmri"}.get(name, "haxby_fmri")).is_dir():
        pytest.skip(f"needs {name} under $NEUROFM_DATA")
    corpus = open_corpus(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # voxels outside the head
        found = [
            r for r in corpus.recordings() if subject is None or int(r.subject) == int(subject)
        ]
        return [corpus.load(r) for r in found if name == "finger7t" or int(r.run) <= 9]


@pytest.mark.parametrize(
    ("name", "expected"), [("haxby2001_slice", 0.722), ("haxby2001_subset", 0.222)]
)
def test_haxby_as_scikit_learn_has_it(name: str, expected: float, corpora: Path):
    made = trial_patterns(runs(name, corpora))
    result = decode_patterns(made.values, made.stimulus, made.run, decoder="lda_by_class").result

    assert result.value == pytest.approx(expected, abs=0.01)
    assert result.chance == pytest.approx(0.125) and result.n == 9


@pytest.mark.parametrize(("subject", "expected"), list(enumerate(FINGERS, 1)))
@pytest.mark.parametrize("decoder", ["lda_by_class", "lda"])
def test_fingers_as_scikit_learn_has_them(
    subject: int, expected: float, decoder: str, corpora: Path
):
    made = trial_patterns(runs("finger7t", corpora, str(subject)))
    x = centre_runs(made.values, made.run)
    result = decode_patterns(x, made.stimulus, made.run, decoder=decoder).result

    assert result.value == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("haxby2001_slice", 0.9), ("haxby2001_subset", 0.3)])
def test_a_delay_chosen_in_training_runs_goes_beyond(name: str, least: float, corpora: Path):
    made = trial_patterns(runs(name, corpora), start_s=0, stop_s=7.5, average=False)
    result = decode_patterns(made.values, made.stimulus, made.run).result

    assert result.value > least and result.detail["p"] < 0.01


def test_fingers_assigned_together(corpora: Path):
    made = trial_patterns(runs("finger7t", corpora, "2"))
    x = centre_runs(made.values, made.run)
    result = decode_patterns(x, made.stimulus, made.run, one_of_each=True).result

    assert result.value > 0.9


def test_nothing_is_decoded_before_the_block(corpora: Path):
    made = trial_patterns(runs("haxby2001_slice", corpora), start_s=-10, stop_s=-25)
    result = decode_patterns(made.values, made.stimulus, made.run).result

    assert result.value < result.detail["null_95"] + 0.03


def test_the_searchlight_finds_both_sides_of_ventral_cortex(corpora: Path):
    made = trial_patterns(runs("haxby2001_slice", corpora))
    found = searchlight(
        made.values, made.stimulus, made.run, made.sensors.position, n_permutations=200
    )
    sure = found.position[found.significant(0.05)]

    assert (sure[:, 0] < -0.01).sum() > 20 and (sure[:, 0] > 0.01).sum() > 20
