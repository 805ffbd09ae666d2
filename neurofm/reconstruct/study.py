"""What a reconstruction needs of a study: pictures and responses, train and test, and regions.

Axes: stimulus, 3 height width (0 to 1); voxel.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.data import averaged, split_trials, standardized
from neurofm.io import open_corpus
from neurofm.reconstruct.scenes import SceneBrain, draw_scenes
from neurofm.shapes import Bool, Float, Int


@dataclass(frozen=True)
class Study:
    """One person who saw pictures.

    Args:
        name: For titles.
        images: Of training.
        voxels: Responses to them, z-scored, averaged over repeats.
        captions: Of training.
        test_images: Never trained on.
        test_voxels: Responses to them.
        test_captions: Of the test.
        regions: Mask of each region that has a name.
        respond: The truth, in a simulation: images to responses without noise.
    """

    name: str
    images: Float[Tensor, "stimulus 3 height width"]
    voxels: Float[np.ndarray, "stimulus voxel"]
    captions: tuple[str, ...]
    test_images: Float[Tensor, "test 3 height width"]
    test_voxels: Float[np.ndarray, "test voxel"]
    test_captions: tuple[str, ...]
    regions: dict[str, Bool[np.ndarray, " voxel"]]
    respond: Callable[[Tensor], Tensor] | None = None

    def words(self) -> tuple[list[str], Int[Tensor, "stimulus word"], Int[Tensor, "test word"]]:
        """Vocabulary of the training captions (first: nothing), and all captions as indices.

        Words that only test captions have are left out of those.
        """
        known = ["", *Counter(w for c in self.captions for w in _words(c))]
        place = {word: i for i, word in enumerate(known)}
        longest = max(len(_words(c)) for c in self.captions)
        tables = []
        for captions in (self.captions, self.test_captions):
            table = torch.zeros(len(captions), longest, dtype=torch.long)
            for row, caption in zip(table, captions, strict=True):
                found = [place[w] for w in _words(caption) if w in place][:longest]
                row[: len(found)] = torch.tensor(found, dtype=torch.long)
            tables.append(table)
        return known, tables[0], tables[1]


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+", caption.lower())


def scene_study(
    n: int = 1000,
    n_test: int = 60,
    *,
    n_voxels: int = 600,
    repeats: int = 3,
    noise: float = 2.0,
    seed: int = 0,
) -> Study:
    """A simulated person looks at coloured shapes: training scenes once, test scenes repeatedly.

    Args:
        n: Training scenes.
        n_test: Test scenes.
        n_voxels: In all regions of `SceneBrain`.
        repeats: Of the test scenes.
        noise: Standard deviation of one measurement; the signal's is 1.
        seed: Of scenes, person and noise.
    """
    train, test = draw_scenes(n, seed=2 * seed), draw_scenes(n_test, seed=2 * seed + 1)
    brain = SceneBrain(n_voxels, noise=noise, seed=seed).requires_grad_(False)
    return Study(
        "simulated person",
        train.images,
        brain.measure(train.images),
        train.captions,
        test.images,
        brain.measure(test.images, repeats=repeats, seed=1),
        test.captions,
        brain.regions(),
        brain.respond,
    )


def corpus_study(
    name: str, *, subject: str | None = None, size: int = 32, chunk: int = 500
) -> Study:
    """A person of a corpus of pictures, such as `nsd_betas`: the shared pictures test.

    Responses are z-scored by session with its training trials, then averaged over repeats.

    Args:
        name: Card of the corpus, whose folder lies under $NEUROFM_DATA.
        subject: The first if not given.
        size: Pixels that pictures are reduced to.
        chunk: Pictures read at once.

    Raises:
        FileNotFoundError: The corpus, or its pictures, are not there.
    """
    reader: Any = open_corpus(name).reader
    person = subject or reader.people()[0]
    trials = reader.responses(person)
    split = split_trials(trials, test=list(reader.shared()))
    trials = standardized(trials, split.train)
    sides = [averaged(trials.pick(list(part))) for part in (split.train, split.test)]
    pictures = []
    for side in sides:
        parts = [side.stimulus[i : i + chunk] for i in range(0, len(side.stimulus), chunk)]
        pictures.append(torch.cat([_reduced(reader.images(part), size) for part in parts]))
    region = np.array(trials.sensors.region or ("voxels",) * len(trials.sensors))
    regions = {str(area): region == area for area in dict.fromkeys(region) if area}
    kept = {area: mask for area, mask in regions.items() if 0 < mask.sum() < len(mask)}
    known = [np.isfinite(side.values).all(axis=0) for side in sides]
    whole = known[0] & known[1]
    return Study(
        f"{name}, person {person}",
        pictures[0],
        sides[0].values[:, whole],
        _captions(reader, sides[0].stimulus),
        pictures[1],
        sides[1].values[:, whole],
        _captions(reader, sides[1].stimulus),
        {area: mask[whole] for area, mask in kept.items()},
    )


def _reduced(images: np.ndarray, size: int) -> Tensor:
    found = torch.from_numpy(np.asarray(images, dtype=np.float32))
    return F.interpolate(found, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def _captions(reader: Any, names: Sequence[str]) -> tuple[str, ...]:
    """The category of each picture, where the corpus names it: all that a reader says."""
    try:
        return tuple(str(word) for word in reader.categories_of(list(names)))
    except (AttributeError, FileNotFoundError, ValueError):
        return ("picture",) * len(names)


def selective_voxels(
    voxels: Float[np.ndarray, "stimulus voxel"],
    chosen: Bool[np.ndarray, " stimulus"],
    *,
    n: int = 30,
) -> Bool[np.ndarray, " voxel"]:
    """The `n` voxels that answer most to some stimuli compared with all others: a localiser.

    Args:
        voxels: *Training* responses: the test of what they like needs others.
        chosen: Such as all pictures whose caption has a word.
    """
    chosen = np.asarray(chosen)
    if not 1 < chosen.sum() < len(chosen) - 1 or not 0 < n < voxels.shape[1]:
        raise ValueError(
            f"selective_voxels: {int(chosen.sum())} of {len(chosen)} stimuli are chosen, {n} of "
            f"{voxels.shape[1]} voxels wanted; expected two or more on either side, and some "
            "voxels."
        )
    a, b = voxels[chosen].astype(float), voxels[~chosen].astype(float)
    error = np.sqrt(a.var(axis=0, ddof=1) / len(a) + b.var(axis=0, ddof=1) / len(b))
    t = (a.mean(axis=0) - b.mean(axis=0)) / np.maximum(error, 1e-12)
    mask = np.zeros(voxels.shape[1], dtype=bool)
    mask[np.argsort(-t, kind="stable")[:n]] = True
    return mask
