"""People's responses and the embeddings of what they saw, in a folder, for in-context encoders.

    FOLDER/embeddings.npz       an array per stimulus (`StimulusTable`); or .safetensors
    FOLDER/sub-1.npz ...        `write_person`: single-trial betas of each person
    FOLDER/phrases.npz          an array per phrase, if there are any

Whatever reads a data set into `Responses` can write the second; embeddings come from
`neurofm.stimuli` or from where they were published.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neurofm.cards import configured
from neurofm.data.stimulus_table import StimulusTable
from neurofm.data.voxel_sources import MeasuredVoxels
from neurofm.types import Recording, Responses, Sensors

_PARTS = ("values", "stimulus", "run", "kind", "position", "frame", "names", "dataset")


def write_person(person: Responses, folder: str | Path) -> Path:
    """Write one person's responses to `sub-NAME.npz`.

    Raises:
        ValueError: Responses over time.
    """
    if person.values.ndim != 2:
        raise ValueError(f"{person.recording.id}: responses over time; expected a value per trial.")
    path = Path(folder) / f"sub-{person.recording.subject}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    sensors = person.sensors
    partial = path.with_suffix(".part.npz")
    np.savez(
        partial,
        values=person.values,
        stimulus=np.array(person.stimulus),
        run=np.array(person.run),
        kind=sensors.kind,
        position=sensors.position,
        frame=np.array(sensors.frame),
        names=np.array(sensors.names),
        dataset=np.array(person.recording.dataset),
    )
    partial.replace(path)
    return path


def read_people(
    folder: str | Path, subjects: Sequence[str] | None = None
) -> tuple[list[Responses], dict[str, np.ndarray]]:
    """People of a folder, and unit-norm embeddings of the stimuli by name.

    Args:
        folder: As it is, or below `$NEUROFM_DATA`.
        subjects: All if not given.

    Raises:
        FileNotFoundError: No such folder, person or table of embeddings.
        ValueError: A damaged file.
    """
    folder = _found(folder)
    names = sorted(path.stem.removeprefix("sub-") for path in folder.glob("sub-*.npz"))
    missing = sorted(set(subjects or ()) - set(names))
    if missing or not names:
        raise FileNotFoundError(
            f"{folder}: no responses of {', '.join(missing) or 'anybody'}; there are "
            f"{', '.join(names) or 'no files sub-NAME.npz'}. `neurofm.data.write_person` makes "
            "them."
        )
    tables = [folder / f"embeddings{end}" for end in (".safetensors", ".npz")]
    present = [path for path in tables if path.is_file()]
    if not present:
        raise FileNotFoundError(
            f"{folder}: neither {tables[0].name} nor {tables[1].name}. Compute an embedding of "
            "each stimulus (`neurofm.stimuli`) and write them (`neurofm.data.StimulusTable.write`)."
        )
    table = StimulusTable.read(present[0])
    length = np.linalg.norm(table.vectors, axis=1, keepdims=True)
    if not (length > 0).all():
        raise ValueError(f"{present[0]}: an embedding is 0 throughout. Leave it out.")
    features = dict(zip(table.names, table.vectors / length, strict=True))
    chosen = names if subjects is None else list(subjects)
    return [_read(folder / f"sub-{name}.npz", name) for name in chosen], features


def read_phrases(folder: str | Path) -> dict[str, np.ndarray]:
    """Unit-norm embeddings of phrases by phrase: `phrases.npz` or `.safetensors` of a folder.

    Of the network whose embeddings of pictures are in the folder, such as CLIP's text encoder. No
    such file, no phrases.
    """
    folder = _found(folder)
    present = [folder / f"phrases{end}" for end in (".safetensors", ".npz")]
    present = [path for path in present if path.is_file()]
    if not present:
        return {}
    table = StimulusTable.read(present[0])
    length = np.linalg.norm(table.vectors, axis=1, keepdims=True)
    return dict(zip(table.names, table.vectors / length, strict=True))


def _found(folder: str | Path) -> Path:
    path = Path(folder)
    if not path.is_dir() and not path.is_absolute() and os.environ.get("NEUROFM_DATA"):
        path = Path(os.environ["NEUROFM_DATA"]) / folder
    if not path.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder, also not below $NEUROFM_DATA "
            f"({os.environ.get('NEUROFM_DATA', 'not set')})."
        )
    return path


def _read(path: Path, subject: str) -> Responses:
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = {name: file[name] for name in _PARTS}
    except (zipfile.BadZipFile, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a whole file of `write_person` ({error}).") from error
    names = tuple(parts["names"].tolist())
    nowhere = np.zeros((len(names), 3))
    frame = str(parts["frame"])
    return Responses(
        values=parts["values"].astype(np.float32),
        stimulus=tuple(parts["stimulus"].tolist()),
        run=tuple(parts["run"].tolist()),
        sensors=Sensors(names, parts["kind"], parts["position"], nowhere, frame),
        recording=Recording(str(parts["dataset"]), subject),
    )


def shared_stimuli(people: Sequence[Responses]) -> tuple[set[str], set[str]]:
    """Stimuli that everybody saw, and all others."""
    each = [set(person.stimulus) for person in people]
    everybody = set.intersection(*each)
    return everybody, set.union(*each) - everybody


@configured
class FolderVoxels(MeasuredVoxels):
    """Voxels of people in a folder, for recipes.

    Args:
        folder: See the head of this module; as it is, or below `$NEUROFM_DATA`.
        subjects: Whose voxels are drawn; everybody's if not given.
        shared: True for the stimuli that all people of the folder saw, False for the others.
    """

    def __init__(
        self, folder: str | Path, *, subjects: Sequence[str] | None = None, shared: bool = False
    ) -> None:
        everybody, features = read_people(folder)
        common, own = shared_stimuli(everybody)
        wanted = common if shared else own
        if not wanted:
            raise ValueError(
                f"{folder}: {'no stimulus was' if shared else 'all stimuli were'} seen by all "
                f"{len(everybody)} people. Split the stimuli by hand with MeasuredVoxels."
            )
        chosen = [p for p in everybody if subjects is None or p.recording.subject in subjects]
        absent = set(subjects or ()) - {p.recording.subject for p in chosen}
        if absent:
            raise ValueError(f"{folder}: no responses of {', '.join(sorted(absent))}.")
        kept = [p.pick([name in wanted for name in p.stimulus]) for p in chosen]
        super().__init__(kept, features)
