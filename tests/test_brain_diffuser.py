"""From voxels to what generators read: scales, moments, parts of latents, regions, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurofm.io.tensors import write_tensors
from neurofm.metrics import two_way_identification
from neurofm.reconstruct import (
    TARGETS,
    BrainDiffuser,
    VoxelScale,
    split_latents,
)
from neurofm.reconstruct.brain_diffuser import VDVAE_LAYERS

PENALTIES = {"autoencoder": 1.0, "vision": 1.0, "text": 10.0}


def planted(n: int = 80, voxels: int = 40, seed: int = 0):
    """Voxels that are linear in targets of two kinds, with noise and units of a scanner."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((n, 6))
    targets = {
        "autoencoder": hidden @ np.random.default_rng(1).standard_normal((6, 12)) + 3,
        "vision": (hidden @ np.random.default_rng(2).standard_normal((6, 20))).reshape(n, 4, 5),
    }
    brain = hidden @ np.random.default_rng(3).standard_normal((6, voxels))
    brain = 300 * (brain + 0.3 * rng.standard_normal(brain.shape)) + 1000
    return brain.astype(np.float32), {k: v.astype(np.float32) for k, v in targets.items()}


def test_published_targets_and_penalties():
    assert TARGETS["autoencoder"].shape == (91_168,)
    assert TARGETS["vision"].shape == (257, 768) and TARGETS["text"].shape == (77, 768)
    assert [TARGETS[k].penalty for k in ("autoencoder", "vision", "text", "caption")] == [
        *(50_000, 60_000, 100_000, 60_000)
    ]
    assert TARGETS["caption"].shape == (197, 768) and TARGETS["caption"].ddof == 1
    assert len(VDVAE_LAYERS) == 31


def test_latents_are_split_into_31_layers():
    parts = split_latents(np.arange(2 * 91_168, dtype=np.float32).reshape(2, -1))
    assert [part.shape[1:] for part in parts[:3]] == [(16, 1, 1), (16, 1, 1), (16, 4, 4)]
    assert parts[-1].shape == (2, 16, 32, 32)
    assert parts[1][0].ravel()[0] == 16 and parts[-1][1].ravel()[-1] == 2 * 91_168 - 1
    with pytest.raises(ValueError, match="10 latents; these 31 layers have 91168"):
        split_latents(np.zeros((1, 10)))


def test_held_out_targets_are_found_and_no_shuffled_ones():
    x, targets = planted()
    train, test = slice(0, 60), slice(60, 80)
    fit = BrainDiffuser(PENALTIES).fit(x[train], {k: v[train] for k, v in targets.items()})
    rng = np.random.default_rng(0)
    shuffled = fit.predict(x[test][rng.permutation(20)])
    for name, made in fit.predict(x[test]).items():
        true = targets[name][test].reshape(20, -1)
        assert made.shape == targets[name][test].shape
        assert two_way_identification(true, made.reshape(20, -1)) > 0.95
        assert two_way_identification(true, shuffled[name].reshape(20, -1)) < 0.7


def test_batch_matching_gives_the_training_moments():
    x, targets = planted()
    fit = BrainDiffuser(PENALTIES).fit(x[:60], {"vision": targets["vision"][:60]})
    made = fit.predict(x[60:])["vision"]
    np.testing.assert_allclose(made.mean(0), targets["vision"][:60].mean(0), atol=1e-4)
    np.testing.assert_allclose(made.std(0), targets["vision"][:60].std(0), rtol=1e-4)


def test_single_trials_do_not_depend_on_their_batch_with_training_moments():
    x, targets = planted()
    fit = BrainDiffuser(PENALTIES, match="training").fit(x[:60], {"vision": targets["vision"][:60]})
    whole = fit.predict(x[60:])["vision"]
    np.testing.assert_allclose(fit.predict(x[60:61])["vision"], whole[:1], rtol=1e-4, atol=1e-5)
    spread = whole.std(0).mean() / targets["vision"][60:].std(0).mean()
    assert 0.7 < spread < 1.3
    with pytest.raises(ValueError, match="no spread of its own"):
        BrainDiffuser(PENALTIES).fit(x[:60], {"vision": targets["vision"][:60]}).predict(x[:1])


def test_units_of_the_scanner_do_not_matter():
    x, targets = planted()
    y = {"vision": targets["vision"][:60]}
    made = [
        BrainDiffuser(PENALTIES).fit(a * x[:60] + b, y).predict(a * x[60:] + b)["vision"]
        for a, b in ((1.0, 0.0), (1 / 300, -4.0))
    ]
    np.testing.assert_allclose(*made, atol=2e-3)


def test_voxels_are_scaled_with_ddof_1():
    x, _ = planted()
    scale = VoxelScale.of(x[:60])
    np.testing.assert_allclose(scale.std, x[:60].astype(float).std(0, ddof=1))
    z = scale.apply(x[:60])
    np.testing.assert_allclose(z.std(0, ddof=1), 1, rtol=1e-4)


def test_constant_voxels_are_counted_and_ignored():
    x, targets = planted()
    x[:60, :3] = 7
    with pytest.warns(UserWarning, match="3 of 40 voxels are constant"):
        fit = BrainDiffuser(PENALTIES).fit(x[:60], {"vision": targets["vision"][:60]})
    assert np.abs(fit.ridges["vision"].coef[:3]).max() < 1e-6


def test_held_out_predictions_are_worse_than_those_of_own_rows():
    x, targets = planted(n=40, voxels=60)
    decoder = BrainDiffuser({"vision": 0.01}, match=None)
    held = decoder.held_out(x, {"vision": targets["vision"]}, folds=4)["vision"]
    own = decoder.fit(x, {"vision": targets["vision"]}).predict(x)["vision"]
    error = [np.square(made - targets["vision"]).mean() for made in (own, held)]
    assert error[1] > 3 * error[0]
    assert np.square(targets["vision"] - targets["vision"].mean(0)).mean() > error[1]


def test_regions_have_the_published_lengths():
    x, targets = planted()
    targets["text"] = targets["vision"][:, :3] + 1
    fit = BrainDiffuser(PENALTIES).fit(x, targets)
    regions = {name: np.arange(40) % 4 == i for i, name in enumerate("abcd")}
    made = fit.region_targets(regions)
    for name, norm in (("text", 9.0), ("vision", 15.0)):
        away = made[name] - fit.ridges[name].intercept
        np.testing.assert_allclose(np.linalg.norm(away, axis=-1), norm, rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(made["autoencoder"], axis=1), 80, rtol=1e-3)
    one = np.zeros((1, 40))
    one[0, regions["b"]] = 1
    direction = np.tensordot(one, fit.ridges["vision"].coef, axes=1)[0]
    away = made["vision"][1] - fit.ridges["vision"].intercept
    cosine = (direction * away).sum() / np.linalg.norm(direction) / np.linalg.norm(away)
    assert cosine > 0.9  # tokens are scaled each by itself


@pytest.mark.parametrize("match", ["batch", "training", None])
def test_decoder_is_saved_and_loaded(tmp_path, match):
    x, targets = planted()
    fit = BrainDiffuser(PENALTIES, match=match).fit(x, targets)
    fit.save(tmp_path / "decoder.safetensors")
    back = BrainDiffuser.load(tmp_path / "decoder.safetensors")
    for name, made in fit.predict(x[:5]).items():
        np.testing.assert_allclose(back.predict(x[:5])[name], made, rtol=1e-5, atol=1e-5)


def test_other_files_are_no_decoder(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {})
    with pytest.raises(ValueError, match="holds no BrainDiffuser"):
        BrainDiffuser.load(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError):
        BrainDiffuser.load(tmp_path / "y.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x, {"vision": y["vision"][:10]}), "10 stimuli in target 'vision'"),
        (lambda x, y: (x, {"sound": y["vision"]}), "no penalty for target 'sound'"),
        (lambda x, y: (x, {}), "no targets"),
        (lambda x, y: (np.where(x > 0, np.nan, x), y), "40 of them with NaN"),
        (lambda x, y: (x[:1], {k: v[:1] for k, v in y.items()}), "two stimuli or more"),
    ],
)
def test_bad_training_data_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        BrainDiffuser(PENALTIES).fit(*change(*planted()))


def test_voxels_of_another_mask_are_refused():
    x, targets = planted()
    decoder = BrainDiffuser(PENALTIES)
    with pytest.raises(ValueError, match="not fitted"):
        decoder.predict(x)
    decoder.fit(x, targets)
    with pytest.raises(ValueError, match="a mask of 40 voxels"):
        decoder.predict(x[:, :39])
    with pytest.raises(ValueError, match="bool mask of the decoder's 40 voxels"):
        decoder.region_targets({"V1": np.ones(39, dtype=bool)})
    with pytest.raises(ValueError, match="at least two"):
        decoder.region_targets({"V1": np.arange(40) < 5})
