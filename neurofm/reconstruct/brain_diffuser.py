"""From voxels to what generators read: Brain-Diffuser's first stage, for any targets.

A ridge for each kind of target (latents of an autoencoder, tokens of an image network, tokens of a
language network), all tokens of a kind at once; predictions get the spread of natural targets back.
What is fitted and what is predicted never mix: scales of voxels and moments are those of training.

Source: Ozcelik & VanRullen 2023 (Brain-Diffuser, arXiv 2303.05334); Ferrante et al. 2023 (brain
captioning, arXiv 2305.11560).
Axes: stimulus, voxel; token dim, or latent: the axes of a target.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from neurofm.io.tensors import existing, read_tensors, write_tensors
from neurofm.linear import TokenwiseRidge
from neurofm.metrics import Moments
from neurofm.reconstruct.roi_synthesis import (
    NORMS,
    region_activity,
    rescaled_latents,
    scaled_direction,
)
from neurofm.shapes import Bool, Float

_HEADER = "neurofm.brain_diffuser"
_FORMAT = 1


@dataclass(frozen=True)
class Target:
    """A published kind of target.

    Args:
        shape: Of one stimulus.
        penalty: For z-scored voxels, targets as they are, and about 8,900 images.
        ddof: Of standard deviations in moment matching.
    """

    shape: tuple[int, ...]
    penalty: float
    ddof: int = 0


TARGETS = {
    "autoencoder": Target((91_168,), 50_000.0),  # 31 layers of a very deep VAE, `VDVAE_LAYERS`
    "vision": Target((257, 768), 60_000.0),  # CLIP ViT-L/14, projected
    "text": Target((77, 768), 100_000.0),  # CLIP, mean over captions
    "caption": Target((197, 768), 60_000.0, ddof=1),  # GIT-base, last hidden state
}
# Channels, height and width of each layer's latents, in order.
VDVAE_LAYERS = tuple(
    (16, side, side) for side, n in ((1, 2), (4, 4), (8, 8), (16, 16), (32, 1)) for _ in range(n)
)


def split_latents(
    flat: Float[np.ndarray, "stimulus latent"],
    shapes: Sequence[tuple[int, ...]] = VDVAE_LAYERS,
) -> list[Float[np.ndarray, "stimulus channel height width"]]:
    """Flat latents as those of each layer, for a hierarchical autoencoder's decoder.

    Raises:
        ValueError: Another number of latents.
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    if flat.shape[1] != sum(sizes):
        raise ValueError(
            f"split_latents: {flat.shape[1]} latents; these {len(sizes)} layers have {sum(sizes)}."
        )
    parts = np.split(flat, np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(len(flat), *shape) for part, shape in zip(parts, shapes, strict=True)]


@dataclass(frozen=True)
class VoxelScale:
    """Mean and standard deviation (ddof 1) of each voxel over training responses.

    Args:
        mean: Per voxel.
        std: Per voxel; 1 where a voxel was constant, which then is zero everywhere.
    """

    mean: Float[np.ndarray, " voxel"]
    std: Float[np.ndarray, " voxel"]

    @classmethod
    def of(cls, voxels: Float[np.ndarray, "stimulus voxel"]) -> VoxelScale:
        """Of training responses. Constant voxels are counted in a warning.

        Raises:
            ValueError: Values that are not finite, or fewer than two stimuli.
        """
        if voxels.ndim != 2 or len(voxels) < 2 or not np.isfinite(voxels).all():
            bad = int((~np.isfinite(voxels)).any(axis=0).sum()) if voxels.ndim == 2 else 0
            raise ValueError(
                f"voxels of shape {voxels.shape}, {bad} of them with NaN or infinite values; "
                "expected stimulus voxel, two stimuli or more, all finite. Leave such voxels out "
                "of the mask."
            )
        rows = np.asarray(voxels, dtype=np.float64)
        std = rows.std(axis=0, ddof=1)
        constant = np.ptp(rows, axis=0) == 0
        if constant.any():
            warnings.warn(
                f"{int(constant.sum())} of {len(constant)} voxels are constant over the training "
                "stimuli: they are ignored.",
                stacklevel=3,
            )
        return cls(rows.mean(axis=0), np.where(constant, 1.0, std))

    def apply(self, voxels: Float[np.ndarray, "stimulus voxel"]) -> Float[np.ndarray, "stimulus v"]:
        """z-scores by training, float32."""
        return ((voxels - self.mean) / self.std).astype(np.float32)


class BrainDiffuser:
    """Ridges from one mask of voxels to all that a generator reads.

    Args:
        penalties: By kind of target; the published ones (`TARGETS`) for names not given. They hold
            for thousands of images: choose yours (`linear.VoxelwiseRidge`) for fewer.
        match: How predictions get the targets' spread: "batch" as published, over all predicted
            rows at once; "training" by leave-one-out predictions of training rows, which is right
            for single trials; None leaves them as they are.
        scale: z-score voxels by training stimuli. Without it they must come so.
        device: Where ridges are solved.

    Attributes (after `fit`):
        ridges: A `linear.TokenwiseRidge` for each kind.
        voxels: Number in the mask.
        voxel_scale: What they are z-scored by, or None.
    """

    def __init__(
        self,
        penalties: Mapping[str, float | int] | None = None,
        *,
        match: str | None = "batch",
        scale: bool = True,
        device: str = "cpu",
    ) -> None:
        self.penalties = {k: float(v) for k, v in (penalties or {}).items()}
        self.match, self.scale, self.device = match, scale, device
        self.ridges: dict[str, TokenwiseRidge] = {}
        self.voxels = 0
        self.voxel_scale: VoxelScale | None = None

    def _ridge(self, name: str) -> TokenwiseRidge:
        known = TARGETS.get(name)
        if name not in self.penalties and known is None:
            raise ValueError(
                f"BrainDiffuser: no penalty for target {name!r}. Published ones are of "
                f"{', '.join(TARGETS)}; give others in `penalties`."
            )
        penalty = self.penalties.get(name, known.penalty if known else 0.0)
        ddof = known.ddof if known else 0
        return TokenwiseRidge(penalty, match=self.match, ddof=ddof, device=self.device)

    def fit(
        self, voxels: Float[np.ndarray, "stimulus voxel"], targets: Mapping[str, np.ndarray]
    ) -> BrainDiffuser:
        """Learn all targets.

        Args:
            voxels: Training responses, averaged over repeats (`data.averaged`).
            targets: By kind, each `stimulus ...`.

        Raises:
            ValueError: Numbers of rows that differ, NaN, or a target without a penalty.
        """
        voxels = np.asarray(voxels)
        if not targets:
            raise ValueError("BrainDiffuser: no targets.")
        for name, target in targets.items():
            if len(target) != len(voxels):
                raise ValueError(
                    f"BrainDiffuser: {len(target)} stimuli in target {name!r}, responses to "
                    f"{len(voxels)}. Average repeats first, and take the targets in that order."
                )
        self.voxel_scale = VoxelScale.of(voxels) if self.scale else None
        rows = self._scaled(voxels)
        self.ridges = {
            name: self._ridge(name).fit(rows, target) for name, target in targets.items()
        }
        self.voxels = voxels.shape[1]
        return self

    def predict(self, voxels: Float[np.ndarray, "stimulus voxel"]) -> dict[str, np.ndarray]:
        """Every kind of target, matched as set.

        Raises:
            ValueError: Not fitted, or voxels of another mask.
        """
        rows = self._scaled(self._checked(voxels))
        return {name: ridge.predict(rows) for name, ridge in self.ridges.items()}

    def held_out(
        self,
        voxels: Float[np.ndarray, "stimulus voxel"],
        targets: Mapping[str, np.ndarray],
        *,
        folds: int = 5,
        seed: int = 0,
    ) -> dict[str, np.ndarray]:
        """Predictions of training stimuli by ridges fitted without them, for a prior."""
        if not 2 <= folds <= len(voxels):
            raise ValueError(f"held_out: {folds} folds of {len(voxels)} stimuli.")
        found = {name: np.empty(np.shape(y), np.float32) for name, y in targets.items()}
        order = np.random.default_rng(seed).permutation(len(voxels))
        for test in np.array_split(order, folds):
            train = np.setdiff1d(order, test)
            scale = VoxelScale.of(voxels[train]) if self.scale else None
            x, new = (rows if scale is None else scale.apply(rows) for rows in
                      (voxels[train], voxels[test]))  # fmt: skip
            for name, y in targets.items():
                found[name][test] = self._ridge(name).fit_predict(x, np.asarray(y)[train], new)
        return found

    def region_targets(
        self,
        regions: Mapping[str, Bool[np.ndarray, " voxel"]],
        *,
        norms: Mapping[str, float | int] | None = None,
    ) -> dict[str, Float[np.ndarray, "region ..."]]:
        """What each region stands for: targets of activity in it alone, with set lengths.

        Args:
            regions: Mask of each; latents of the autoencoder are z-scored over them.
            norms: Lengths by kind of target; the published ones (`NORMS`) where not given. A kind
                that has none keeps the length of its natural targets' mean distance from the mean.
        """
        if not self.ridges:
            raise ValueError("BrainDiffuser: not fitted yet.")
        activity = region_activity(regions, self.voxels)
        lengths = dict(NORMS) if norms is None else dict(norms)
        found = {}
        for name, ridge in self.ridges.items():
            change = np.tensordot(activity, ridge.coef, axes=1)
            moments = ridge.target
            assert moments is not None
            natural = float(np.mean(np.sqrt((moments.std**2).sum(axis=-1))))
            wanted = lengths.get(name, natural)
            made = scaled_direction(change, ridge.intercept, norm=wanted)
            if name == "autoencoder" and norms is None:
                made = rescaled_latents(made, moments)
            found[name] = made.astype(np.float32)
        return found

    def _checked(self, voxels: Any) -> np.ndarray:
        if not self.ridges:
            raise ValueError("BrainDiffuser: not fitted yet.")
        rows = np.asarray(voxels)
        if rows.ndim != 2 or rows.shape[1] != self.voxels:
            raise ValueError(
                f"BrainDiffuser: responses of shape {rows.shape}; it was fitted on a mask of "
                f"{self.voxels} voxels. Extract the test responses with the same mask."
            )
        return rows

    def _scaled(self, voxels: np.ndarray) -> np.ndarray:
        if self.voxel_scale is not None:
            return self.voxel_scale.apply(voxels)
        return np.asarray(voxels, dtype=np.float32)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file: weights (`target voxel`), moments, scales, settings."""
        if not self.ridges:
            raise ValueError("BrainDiffuser: not fitted yet.")
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"BrainDiffuser.save: {path} must end in .safetensors.")
        arrays: dict[str, np.ndarray] = {}
        if self.voxel_scale is not None:
            arrays |= {"voxel.mean": self.voxel_scale.mean, "voxel.std": self.voxel_scale.std}
        for name, ridge in self.ridges.items():
            arrays[f"{name}.coef"] = ridge.coef.reshape(self.voxels, -1).T
            arrays[f"{name}.intercept"] = ridge.intercept
            for word, moments in (("target", ridge.target), ("source", ridge.source)):
                if moments is not None:
                    arrays[f"{name}.{word}.mean"] = moments.mean
                    arrays[f"{name}.{word}.std"] = moments.std
        said = {
            "format": _FORMAT,
            "match": self.match,
            "scale": self.scale,
            "voxels": self.voxels,
            "penalties": {name: ridge.penalty for name, ridge in self.ridges.items()},
            "shapes": {name: list(ridge.intercept.shape) for name, ridge in self.ridges.items()},
        }
        tensors = {
            key: torch.from_numpy(np.array(value, order="C")) for key, value in arrays.items()
        }
        write_tensors(path, tensors, {_HEADER: json.dumps(said)})
        return path

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> BrainDiffuser:
        """What `save` wrote.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Damaged, or another kind of file.
        """
        path = existing(path)
        arrays = {key: value.numpy() for key, value in read_tensors(path).items()}
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
        said = json.loads(header) if header else {}
        if said.get("format") != _FORMAT:
            raise ValueError(f"{path}: holds no BrainDiffuser of format {_FORMAT}.")
        made = cls(said["penalties"], match=said["match"], scale=said["scale"], device=device)
        made.voxels = int(said["voxels"])
        try:
            if made.scale:
                made.voxel_scale = VoxelScale(arrays["voxel.mean"], arrays["voxel.std"])
            for name, shape in said["shapes"].items():
                ridge = made._ridge(name)
                ridge.coef = arrays[f"{name}.coef"].T.reshape(made.voxels, *shape)
                ridge.intercept = arrays[f"{name}.intercept"]
                ridge._shape = tuple(shape)
                ridge.target = _moments(arrays, f"{name}.target")
                ridge.source = _moments(arrays, f"{name}.source")
                made.ridges[name] = ridge
        except KeyError as error:
            raise ValueError(f"{path}: lacks {error}. Save the decoder again.") from error
        return made


def _moments(arrays: Mapping[str, np.ndarray], name: str) -> Moments | None:
    if f"{name}.mean" not in arrays:
        return None
    return Moments(arrays[f"{name}.mean"], arrays[f"{name}.std"])
