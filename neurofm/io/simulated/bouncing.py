"""Videos of a ball in a box: what comes next follows from what was, not from the last frame.

Axes: video; time = frame; channel height width.
"""

from __future__ import annotations

import numpy as np

from neurofm.io.simulated.noise import seeded
from neurofm.shapes import Bool, Float


def simulate_bouncing(
    n: int, *, n_frames: int = 25, size: int = 12, n_seen: int = 7, seed: int = 0
) -> tuple[Float[np.ndarray, "video time 1 height width"], Bool[np.ndarray, " video"]]:
    """Videos, and whether the ball is in the right half at the last frame.

    Args:
        n_frames: Of a video.
        size: Pixels of a side.
        n_seen: Frames before which nothing is decided: balls whose half at frame `n_seen - 1` is
            that of the end are drawn no more often than others.
    """
    rng = seeded(seed, "bouncing")
    many = 4 * n + 50
    place, speed = rng.uniform(0.1, 0.9, (many, 2)), rng.uniform(0.03, 0.09, (many, 2))
    speed *= rng.choice([-1, 1], (many, 2))
    time = np.arange(n_frames)
    way = place[:, None] + speed[:, None] * time[:, None]
    way = 1 - np.abs(way % 2 - 1)  # mirrored at the walls
    end, now = way[:, -1, 0] > 0.5, way[:, n_seen - 1, 0] > 0.5
    groups = [np.flatnonzero((end == a) & (now == b)) for a in (0, 1) for b in (0, 1)]
    few = min(-(-n // 4), *(len(group) for group in groups))
    chosen = rng.permutation(np.concatenate([group[:few] for group in groups]))[:n]
    grid = (np.arange(size) + 0.5) / size
    across = np.exp(-0.5 * ((way[chosen, :, 0, None] - grid) / 0.08) ** 2)
    down = np.exp(-0.5 * ((way[chosen, :, 1, None] - grid) / 0.08) ** 2)
    video = down[..., :, None] * across[..., None, :]
    return video[:, :, None].astype(np.float32), end[chosen]
