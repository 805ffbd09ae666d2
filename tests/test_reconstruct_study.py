"""Studies to reconstruct from, scores of reconstructions, and their figures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from neurofm.reconstruct import scene_study, score_images, selective_voxels, study
from neurofm.report import reconstructions
from neurofm.types import Recording, Responses, Sensors


def pictures(n: int = 12, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_perfect_and_unrelated_images_have_the_scores_they_should():
    seen = pictures()
    features = {"mean": lambda x: torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1)}
    perfect = score_images(seen, seen, features=features)
    assert [r.name for r in perfect] == ["PixCorr", "SSIM", "two-way, pixels", "two-way, mean"]
    assert [r.value for r in perfect] == pytest.approx([1] * 4)
    assert perfect[0].chance == pytest.approx(0, abs=0.05) and perfect[2].chance == 0.5
    assert all(r.n == 12 for r in perfect)
    other = score_images(seen, pictures(seed=1))
    assert other[0].value == pytest.approx(0, abs=0.05)
    assert other[2].low < 0.5 < other[2].high


def test_shared_looks_raise_chance_and_not_identification():
    """All images are one scene with a little noise: PixCorr is high, and so is its chance."""
    base = pictures(1).expand(12, -1, -1, -1)
    seen, made = base + 0.1 * pictures(seed=1), base + 0.1 * pictures(seed=2)
    found = {r.name: r for r in score_images(seen, made)}
    assert found["PixCorr"].value > 0.9
    assert found["PixCorr"].chance == pytest.approx(found["PixCorr"].value, abs=0.02)
    assert found["two-way, pixels"].value < 0.75


def test_images_of_other_sizes_are_resized():
    seen = torch.nn.functional.interpolate(pictures(6, 8), (32, 32), mode="bicubic").clamp(0, 1)
    made = torch.nn.functional.interpolate(seen, (16, 16), mode="area")
    assert score_images(seen, made)[0].value > 0.8
    assert len(score_images(seen, made, size=24)) == 3


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (pictures(11), "12 seen and 11 made"),
        (torch.full((12, 3, 16, 16), torch.nan), "images made hold values"),
    ],
)
def test_bad_images_are_refused(made, words):
    with pytest.raises(ValueError, match=words):
        score_images(pictures(), made)


def test_simulated_study_has_no_test_image_in_training_and_knows_the_truth():
    one = scene_study(40, 12, n_voxels=50, noise=0.5)
    assert one.images.shape == (40, 3, 32, 32) and one.voxels.shape == (40, 50)
    assert len(one.test_images) == len(one.test_captions) == len(one.test_voxels) == 12
    train = {x.numpy().tobytes() for x in one.images}
    assert not train & {x.numpy().tobytes() for x in one.test_images}
    assert one.respond is not None
    clean = one.respond(one.test_images).numpy()
    live = ~one.regions["none"]
    assert np.corrcoef(clean[:, live].ravel(), one.test_voxels[:, live].ravel())[0, 1] > 0.9
    again = scene_study(40, 12, n_voxels=50, noise=0.5)
    np.testing.assert_array_equal(again.voxels, one.voxels)


def test_words_of_captions_become_indices_and_unknown_ones_are_left_out():
    one = scene_study(40, 12, n_voxels=50)
    one = study.Study(**{**vars(one), "test_captions": ("a pink circle", *one.test_captions[1:])})
    known, train, test = one.words()
    assert known[0] == "" and len(set(known)) == len(known)
    assert " ".join(known[i] for i in train[3]) == one.captions[3]
    assert [known[i] for i in test[0] if i] == ["a", "circle"]


def test_selective_voxels_are_those_that_answer_more():
    rng = np.random.default_rng(0)
    chosen = np.arange(60) < 20
    voxels = rng.standard_normal((60, 30))
    voxels[:20, :5] += 3
    voxels[:20, 5:8] -= 3
    mask = selective_voxels(voxels, chosen, n=5)
    assert np.flatnonzero(mask).tolist() == [0, 1, 2, 3, 4]
    for picked, n, words in ((np.zeros(60, bool), 5, "0 of 60"), (chosen, 30, "30 of 30")):
        with pytest.raises(ValueError, match=words):
            selective_voxels(voxels, picked, n=n)


class Corpus:
    """Two sessions of a person; three shared pictures test, two of them seen twice."""

    names = tuple(f"p{i}" for i in range(9))

    def people(self) -> list[str]:
        return ["7"]

    def shared(self) -> tuple[str, ...]:
        return ("p0", "p1", "p2")

    def responses(self, subject: str) -> Responses:
        shown = (*self.names, "p0", "p1", *self.names[3:])
        run = ("1",) * 9 + ("2",) * 8
        values = np.random.default_rng(0).standard_normal((17, 5)).astype(np.float32)
        values[9:] += 100  # another session, another baseline
        nan = np.full((5, 3), np.nan, np.float32)
        sensors = Sensors(
            tuple("abcde"), np.zeros(5, np.int8), nan, np.zeros((5, 3), np.float32), "unknown",
            ("V1", "V1", "V4", "", "V4"),
        )  # fmt: skip
        return Responses(values, shown, run, sensors, Recording("c", subject))

    def images(self, names) -> np.ndarray:
        return np.stack([np.full((3, 64, 64), int(n[1:]) / 10, np.float32) for n in names])


def test_a_corpus_becomes_a_study_with_the_shared_pictures_held_out(monkeypatch):
    monkeypatch.setattr(study, "open_corpus", lambda name: SimpleNamespace(reader=Corpus()))
    one = study.corpus_study("some_betas", chunk=4)
    assert one.name == "some_betas, person 7"
    assert one.images.shape == (6, 3, 32, 32) and one.test_images.shape == (3, 3, 32, 32)
    torch.testing.assert_close(one.test_images[:, 0, 0, 0], torch.tensor([0.0, 0.1, 0.2]))
    assert np.abs(one.voxels).max() < 10  # the baselines of the sessions are gone
    assert {name: mask.sum() for name, mask in one.regions.items()} == {"V1": 2, "V4": 2}
    assert one.respond is None and one.captions == ("picture",) * 6


def test_figures_show_what_they_are_given():
    rows = {"seen": pictures(3).numpy(), "made": pictures(2).numpy()}
    figure = reconstructions.plot_image_rows(rows, title="Three", names=["a", "b", "c"])
    assert isinstance(figure, Figure) and len(figure.axes) == 6
    assert sum(len(axes.images) for axes in figure.axes) == 5
    losses = {"r": {"V1": (0.6, np.array([0.8, 0.9])), "V4": (0.8, np.array([0.7, 0.9]))}}
    figure = reconstructions.plot_losses(losses, intact={"r": 0.9}, title="Without")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["V1", "V4"]
    responses = {"V4": {"own": np.ones(3), "seen": np.zeros(4)}}
    figure = reconstructions.plot_region_responses(responses, title="Measured")
    assert "(z)" in figure.axes[0].get_ylabel()
    with pytest.raises(ValueError, match="no rows"):
        reconstructions.plot_image_rows({}, title="x")
