"""Whiskers swept over objects: forces and torques at an array of whisker bases.

A category is a profile of height over the width of an object (a sum of waves); the exemplar says
where it stands, how large it is and how fast it is swept. A whisker that meets the object is bent,
in proportion to how far the object reaches in; what it feels, and how that changes, is in six
components. Nothing of the rat simulator of Zhuang et al. 2017 but the shape of the data.

Axes: clip; time = step; component = force x y z, torque x y z; height width = array of whiskers.
"""

from __future__ import annotations

import numpy as np

from neurofm.io.simulated.noise import seeded
from neurofm.shapes import Float, Int

COMPONENTS = 6


def simulate_whisking(
    n: int,
    *,
    n_categories: int = 4,
    n_steps: int = 22,
    rows: int = 5,
    columns: int = 7,
    noise: float | int = 0.3,
    seed: int = 0,
    clips_seed: int = 0,
) -> tuple[
    Float[np.ndarray, "clip time component height width"],
    Int[np.ndarray, " clip"],
]:
    """Clips and their categories, equally many of each.

    Args:
        noise: Standard deviation beside signals of about 1.
        seed: Of the categories.
        clips_seed: Of these clips: another one for tests.
    """
    label = np.arange(n) % n_categories
    looks = seeded(seed, "objects").standard_normal((n_categories, 3, 2))
    mixing = seeded(seed, "whiskers").standard_normal((3, COMPONENTS))
    rng = seeded(seed, "clips", clips_seed)
    row, column = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    time = np.linspace(-1, 1, n_steps)
    speed, start = rng.uniform(0.8, 1.3, n), rng.uniform(-0.3, 0.3, n)
    size, tilt = rng.uniform(0.8, 1.25, n), rng.uniform(-0.3, 0.3, n)
    # Where on the object a whisker is at each step.
    at = speed[:, None, None, None] * time[:, None, None] + 0.6 * column
    at = at + start[:, None, None, None] + tilt[:, None, None, None] * row
    at = at / size[:, None, None, None]
    depth = np.zeros_like(at)
    for wave in range(3):
        a, b = (looks[label, wave, part][:, None, None, None] for part in (0, 1))
        phase = np.pi * (wave + 1) * at
        depth += (a * np.cos(phase) + b * np.sin(phase)) / (wave + 1)
    depth = np.maximum(depth * np.exp(-0.5 * (at / 1.2) ** 2), 0)  # in contact, or not
    change = np.gradient(depth, axis=1)
    felt = np.stack([depth, 4 * change, depth * row], -1) @ mixing
    felt = felt + noise * rng.standard_normal(felt.shape)
    return np.moveaxis(felt, -1, 2).astype(np.float32), label.astype(np.int64)
