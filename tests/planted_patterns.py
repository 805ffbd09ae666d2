"""Patterns of fMRI with a known answer, made at once: a brain-shaped set of voxels, noise that
neighbours share, one region that tells categories apart, one that only shares the region's noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Planted:
    x: np.ndarray  # trial voxel, z
    y: np.ndarray
    run: np.ndarray
    position: np.ndarray  # voxel 3, metres
    region: np.ndarray  # True where categories differ
    partner: np.ndarray  # True where the region's noise is seen without its signal
    activity: np.ndarray  # category voxel, the planted patterns


def brain(n_voxels: int, voxel_mm: float = 3.0) -> np.ndarray:
    """Voxels of an ellipsoid, metres."""
    half = np.array([0.068, 0.086, 0.062])
    half *= (n_voxels * (voxel_mm / 1000) ** 3 / (4 / 3 * np.pi * half.prod())) ** (1 / 3)
    side = [
        np.arange(-np.ceil(h * 1000 / voxel_mm), np.ceil(h * 1000 / voxel_mm) + 1) for h in half
    ]
    grid = np.stack(np.meshgrid(*side, indexing="ij"), -1).reshape(-1, 3) * voxel_mm / 1000
    inside = np.square(grid / half).sum(1)
    return grid[np.sort(np.argsort(inside, kind="stable")[:n_voxels])]


def planted(
    n_voxels: int = 1500,
    *,
    n_runs: int = 6,
    classes: int = 2,
    repeats: int = 2,
    effect: float = 1.0,
    share: float = 1 / 60,
    seed: int = 0,
) -> Planted:
    rng = np.random.default_rng(seed)
    position = brain(n_voxels)
    y = np.tile(np.repeat(np.arange(classes), repeats), n_runs)
    run = np.repeat(np.arange(n_runs), classes * repeats)
    middle = position[np.argsort(position[:, 1])[n_voxels // 5]] * [0.3, 1, 0.3]
    away = np.linalg.norm(position - middle, axis=1)
    region = away < np.sort(away)[max(12, round(share * n_voxels))]
    far = np.linalg.norm(position + middle, axis=1)
    partner = (far < np.sort(far)[max(12, round(share * n_voxels))]) & ~region
    activity = np.zeros((classes, n_voxels))
    sign = rng.standard_normal((classes, region.sum()))
    activity[:, region] = effect * (sign - sign.mean(0))
    x = rng.standard_normal((len(y), n_voxels))
    x[:, region | partner] += 2.0 * rng.standard_normal((len(y), 1))
    x += rng.standard_normal((n_runs, n_voxels))[run] * 0.3 + activity[y]
    names = np.array([f"c{c}" for c in range(classes)])
    return Planted(x, names[y], run.astype(str), position, region, partner, activity)
