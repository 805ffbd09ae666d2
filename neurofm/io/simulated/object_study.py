"""Simulated pictures of isolated objects and people who see categories in them.

The same shape as the 92-image data: 92 pictures in six categories, four people in two sessions, one
monkey. People and monkey have units tuned to the categories (animate things and faces most), to the
silhouette, and to nothing; what they share is therefore known: categories and silhouettes.

Axes: condition row column colour = pictures.
"""

from __future__ import annotations

import numpy as np

from neurofm.io.object_study import ObjectStudy, averaged
from neurofm.types import RDM

COUNTS = {
    "human bodypart": 12,
    "human face": 12,
    "nonhuman bodypart": 12,
    "nonhuman face": 12,
    "natural inanimate": 23,
    "artificial inanimate": 21,
}
SIZE = 64  # pixels
_GREY = 128


def simulate_object_study(
    *, n_people: int = 4, noise: float | int = 4.0, units: int = 200, seed: int = 0
) -> ObjectStudy:
    """The simulated study.

    Args:
        noise: Standard deviation of a session's noise, in that of the signal of categories.
        units: Of each brain.
    """
    rng = np.random.default_rng(seed)
    category = tuple(name for name, n in COUNTS.items() for _ in range(n))
    pictures = np.stack([_picture(name, rng) for name in category])
    names = list(COUNTS)
    code = np.array([names.index(one) for one in category])
    animate = code < 4
    face = np.isin(code, (1, 3))
    shape = (pictures != _GREY).any(-1).reshape(len(pictures), -1).astype(float)
    shape = shape - shape.mean(0)
    shape /= np.sqrt((shape**2).sum(1).mean())
    # Tuning that all brains share: categories; what is their own: how units mix it.
    shared = np.column_stack([np.eye(6)[code], 1.5 * animate, 1.2 * face, 0.8 * shape])
    labels = tuple(str(i + 1) for i in range(len(category)))

    def brain() -> np.ndarray:
        return shared @ rng.standard_normal((shared.shape[1], units))

    def session(responses: np.ndarray) -> RDM:
        seen = responses + noise * rng.standard_normal(responses.shape)
        return RDM(_dissimilarity(seen), labels, "correlation")

    sessions = {}
    for i in range(n_people):
        own = brain()
        sessions[f"person {i + 1}"] = (session(own), session(own))
    rows, columns = np.triu_indices(len(category), 1)
    models = {
        "animacy": (animate[rows] != animate[columns]).astype(float),
        "categories": (code[rows] != code[columns]).astype(float),
        "Silhouette": _dissimilarity(shape),
    }
    return ObjectStudy(
        pictures=pictures,
        category=category,
        animate=tuple(bool(one) for one in animate),
        people={name: averaged(found) for name, found in sessions.items()},
        sessions=sessions,
        monkey=session(brain()),
        models={name: RDM(values, labels, "model") for name, values in models.items()},
    )


def _dissimilarity(x: np.ndarray) -> np.ndarray:
    return 1 - np.corrcoef(x)[np.triu_indices(len(x), 1)]


def _picture(category: str, rng: np.random.Generator) -> np.ndarray:
    """One object on grey; position, size, turn and colour vary."""
    axis = np.linspace(-1, 1, SIZE)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    x, y = x - rng.uniform(-0.12, 0.12), y - rng.uniform(-0.12, 0.12)
    x, y = x / rng.uniform(0.85, 1.15), y / rng.uniform(0.85, 1.15)
    human, skin = category.startswith("human"), np.array([205, 160, 130])
    colour = skin if human else rng.integers(40, 220, 3)
    dark = np.zeros_like(x, dtype=bool)
    if category.endswith("face"):
        inside = (x / 0.55) ** 2 + (y / 0.75) ** 2 < 1
        dark = ((np.abs(x) - 0.22) ** 2 + (y + 0.15) ** 2 < 0.008) | (
            (np.abs(x) < 0.22) & (np.abs(y - 0.4) < 0.05)
        )
        if not human:
            inside |= (np.abs(x) - 0.45) ** 2 + (y + 0.65) ** 2 < 0.05
            colour = np.array([120, 95, 70]) + rng.integers(-30, 30, 3)
    elif category.endswith("bodypart"):
        turn = rng.uniform(-0.4, 0.4) + (0 if human else np.pi / 2)
        along, across = x * np.sin(turn) + y * np.cos(turn), x * np.cos(turn) - y * np.sin(turn)
        inside = (along / 0.85) ** 2 + (across / 0.28) ** 2 < 1
        limbs = np.abs(np.sin(5 * along)) < 0.35
        inside |= limbs & (np.abs(along) < 0.7) & (np.abs(across) < 0.55)
        colour = colour if human else np.array([130, 100, 75]) + rng.integers(-35, 35, 3)
    elif category.startswith("natural"):
        angle, radius = np.arctan2(y, x), np.hypot(x, y)
        waves = sum(
            rng.uniform(0, 0.12) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in range(2, 6)
        )
        inside = radius < 0.6 + waves
        colour = np.array([90, 150, 60]) + rng.integers(-60, 60, 3)
    else:
        turn, ratio = rng.uniform(0, np.pi), rng.uniform(0.2, 1.0)
        along, across = x * np.sin(turn) + y * np.cos(turn), x * np.cos(turn) - y * np.sin(turn)
        inside = (np.abs(along) < 0.65) & (np.abs(across) < 0.65 * ratio)
        dark = np.abs(along - rng.uniform(-0.4, 0.4)) < 0.06
    picture = np.full((SIZE, SIZE, 3), _GREY, dtype=float)
    shade = 1 - 0.25 * (x + y)[..., None]
    picture[inside] = (colour * shade)[inside]
    picture[inside & dark] = 30
    return np.clip(
        picture + 4 * rng.standard_normal(picture.shape) * inside[..., None], 0, 255
    ).astype(np.uint8)
