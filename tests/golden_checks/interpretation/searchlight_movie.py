"""Searchlight RDMs and RDM movies against `searchlight_movie.safetensors`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neurofm.interpret import rsa

INPUTS = (
    "volume",
    "mask",
    "radius",
    "epochs",
    "epoch_labels",
    "epoch_runs",
    "baseline_samples",
    "precision",  # how noise is estimated is what `rdm.safetensors` is about
    "model_rdm",
)


def check(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    given = {name: value.numpy() for name, value in tensors.items()}
    mask, volume = given["mask"], given["volume"]
    around = rsa.volume_spheres(mask, radius=float(given["radius"][0]), min_places=1)
    order = np.argsort(given["epoch_labels"], kind="stable")  # conditions by label
    film = rsa.movie(
        given["epochs"][order],
        given["epoch_labels"][order].tolist(),
        given["epoch_runs"][order].tolist(),
        noise=np.linalg.inv(given["precision"]),
    )
    got = {
        "centers": np.flatnonzero(mask)[around.centre],
        "n_neighbors": around.sizes.astype(np.int64),
        "rdm_movie_crossnobis": film.values,
    }
    for name in given:
        start, _, method = name.rpartition("_")
        if start == "rdm" and "movie" not in name:
            got[name] = rsa.searchlight_rdms(volume[:, mask], around, metric=method)
        elif start == "movie":
            got[name] = rsa.compare(film.values, given["model_rdm"][None], method)[:, 0]
        elif start == "time_time":
            got[name] = film.generalise(method)
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in got.items()}
