"""Pictures of isolated objects with RDMs of people, a monkey and models: the 92-image data.

A folder holds the three MATLAB files of the study: `92_brainRDMs.mat` (human IT, two sessions of
each person), `92_modelRDMs.mat`, and `Kriegeskorte_Neuron2008_supplementalData.mat` (monkey IT and
the pictures).

Source: Kriegeskorte et al. 2008 (human and monkey IT); Kiani et al. 2007 (monkey).
Axes: condition row column colour = pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurofm.io.rdms import read_rdms
from neurofm.io.spiking.spike_mat import load_mat
from neurofm.types import RDM

BRAINS = "92_brainRDMs.mat"
MODELS = "92_modelRDMs.mat"
PICTURES = "Kriegeskorte_Neuron2008_supplementalData.mat"


@dataclass(frozen=True)
class ObjectStudy:
    """Pictures and dissimilarities of the same conditions in the same order.

    Args:
        pictures: RGB, 0 to 255, `condition row column colour`.
        category: Of each picture.
        animate: Whether each shows a person, an animal, or a part of one.
        people: Name to RDM of human IT, sessions averaged.
        sessions: Name to the RDMs of that person's sessions.
        monkey: RDM of monkey IT.
        models: Name to RDM of what the study compared with.
    """

    pictures: np.ndarray
    category: tuple[str, ...]
    animate: tuple[bool, ...]
    people: Mapping[str, RDM]
    sessions: Mapping[str, tuple[RDM, ...]]
    monkey: RDM
    models: Mapping[str, RDM]

    def select(self, index: Sequence[int] | np.ndarray) -> ObjectStudy:
        """The conditions at `index`, in that order, everywhere."""
        index = np.asarray(index, dtype=int)
        return ObjectStudy(
            pictures=self.pictures[index],
            category=tuple(self.category[i] for i in index),
            animate=tuple(self.animate[i] for i in index),
            people={name: one.select(index) for name, one in self.people.items()},
            sessions={n: tuple(s.select(index) for s in all_) for n, all_ in self.sessions.items()},
            monkey=self.monkey.select(index),
            models={name: one.select(index) for name, one in self.models.items()},
        )


def read_object_study(folder: Path | str) -> ObjectStudy:
    """The 92-image data from the folder of its three files.

    Raises:
        FileNotFoundError: One of the files is missing.
        ValueError: Files of another content.
    """
    folder = Path(folder)
    sessions: dict[str, list[RDM]] = {}
    for name, one in read_rdms(folder / BRAINS, metric="correlation").items():
        parts = [part.strip() for part in name.split("|")]
        sessions.setdefault(parts[1] if len(parts) > 1 else name, []).append(one)
    models = read_rdms(folder / MODELS)
    both = read_rdms(folder / PICTURES, metric="correlation")
    monkey = [one for name, one in both.items() if name.lower().startswith("mit")]
    stimuli = load_mat(folder / PICTURES).get("stimuli_92objs")
    if not monkey or stimuli is None:
        raise ValueError(
            f"{folder / PICTURES}: no RDM of monkey IT or no variable stimuli_92objs; expected the "
            "supplemental data of Kriegeskorte et al. 2008."
        )
    stimuli = stimuli.ravel()
    # Monkey IT is among the models too.
    kept = {name: one for name, one in models.items() if name.lower() != "monkeyit"}
    return ObjectStudy(
        pictures=np.stack([np.asarray(one["image"], dtype=np.uint8) for one in stimuli]),
        category=tuple(str(np.ravel(one["category"])[0]) for one in stimuli),
        animate=tuple(bool(np.ravel(one["animal"])[0]) for one in stimuli),
        people={name: averaged(found) for name, found in sessions.items()},
        sessions={name: tuple(found) for name, found in sessions.items()},
        monkey=monkey[0],
        models=kept,
    )


def averaged(rdms: Sequence[RDM]) -> RDM:
    """Mean of RDMs in one unit."""
    first = rdms[0]
    return RDM(np.mean([one.values for one in rdms], 0), first.labels, first.metric)
