"""Files and folders opened without naming a card.

A folder may be one a card describes (`cards_of`), a BIDS tree, or a heap of files of any format:
`open_path` opens the last two. What is no recording but goes with some (an atlas, a mask, matrices
of dissimilarity) is described by `auxiliary`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neurofm import cards
from neurofm.io.bids import BIDSReader
from neurofm.io.corpus import Corpus
from neurofm.io.electrodes import positions_of, standard_name
from neurofm.io.formats import SUFFIXES
from neurofm.io.integrity import check_file, suffix_of
from neurofm.io.readers import FolderReader, path_of
from neurofm.io.sidecars import DESCRIPTION, bids_root, suffix_word
from neurofm.types import Reader, Recording, Signal
from neurofm.units import Kind

_IMAGES = (".nii", ".nii.gz")
_SURFACES = (".dtseries.nii", ".ptseries.nii")
_OPEN = (*SUFFIXES, *_IMAGES, *_SURFACES, ".nwb")
_NEED_CARD = (
    *(".npz", ".npy", ".h5", ".hdf5", ".mat"),
    *(".csv", ".csv.gz", ".tsv", ".tsv.gz"),
)
_BIDS_TYPES = ("eeg", "meg", "ieeg", "bold")


def open_path(path: Path | str) -> Corpus:
    """A corpus of one file, or of every readable file below a folder, without a card.

    A BIDS tree is read with its sidecars. Elsewhere positions the files lack are taken from the
    10-05 template where most EEG names are in it, and trigger channels become events where there
    are no annotations.

    Raises:
        FileNotFoundError: Nothing there, or nothing in a format neurofm reads.
        ValueError: A format that says nothing about itself, so that a card must.
    """
    path = Path(path)
    if not path.exists() and not path.is_symlink():
        raise FileNotFoundError(
            f"{path}: no such file or folder, and no dataset card of that name (`neurofm list "
            "datasets`)."
        )
    name = path.resolve().name
    if path.is_dir() and suffix_of(path) not in SUFFIXES:
        if _is_bids(path):
            return Corpus(name, {}, path, BIDSReader(dataset=name, root=path))
        return Corpus(name, {}, path, AnyReader("**/*", dataset=name, root=path))
    tree = bids_root(path.resolve()) if suffix_word(path.name) in _BIDS_TYPES else None
    if tree is not None and path.name.startswith("sub-"):
        whole = BIDSReader(dataset=tree.name, root=tree)
        return Corpus(path.name, {}, tree, _Only(whole, path.resolve()))
    if suffix_of(path) not in _OPEN:
        check_file(path)  # what is no such file at all needs no card
        raise ValueError(f"{path}: {_why_not(path)}")
    reader = AnyReader(path.name, dataset=path.resolve().parent.name, root=path.parent)
    return Corpus(path.name, {}, path.parent, reader)


def _why_not(path: Path) -> str:
    """What a file, or a folder without recordings, lacks to be read without a card."""
    if suffix_of(path) in _NEED_CARD:
        return (
            f"{suffix_of(path)} files do not say their rate, unit or kind of channel: a dataset "
            "card does. `neurofm check CARD --root FOLDER` reads them by one; `neurofm list "
            "datasets` names those there are, and datasets/README.md says how to write one."
        )
    return (
        f"{suffix_of(path) or 'no suffix'} is not a format neurofm reads without a card; it reads "
        f"{', '.join(dict.fromkeys(_OPEN))}."
    )


def _is_bids(folder: Path) -> bool:
    if (folder / DESCRIPTION).is_file():
        return True
    kinds = ("eeg", "meg", "ieeg", "func")
    return any(True for kind in kinds for _ in folder.glob(f"sub-*/{kind}/sub-*")) or any(
        True for kind in kinds for _ in folder.glob(f"sub-*/ses-*/{kind}/sub-*")
    )


@dataclass(frozen=True)
class _Only:
    """One recording of a reader."""

    reader: Reader
    path: Path

    def recordings(self) -> list[Recording]:
        found = [r for r in self.reader.recordings() if path_of(r).resolve() == self.path]
        if not found:
            raise FileNotFoundError(f"{self.path}: not a recording of the BIDS tree it lies in.")
        return found

    def load(self, recording: Recording) -> Signal:
        return self.reader.load(recording)


class AnyReader:
    """Files of unknown origin, each by its suffix.

    Args:
        pattern: As for `FolderReader`.
        dataset: Name of the corpus.
        root: Its folder.
    """

    def __init__(self, pattern: str, *, dataset: str, root: Path) -> None:
        self.root = root
        self.pattern = pattern
        self.dataset = dataset
        self._files = FolderReader(pattern, dataset=dataset, root=root, event_channel="auto")

    def recordings(self) -> list[Recording]:
        """What has a suffix that is read without a card; images of one volume are not recordings.

        Raises:
            FileNotFoundError: There is nothing of that kind.
        """
        found: dict[Path, Recording] = {}
        missing: FileNotFoundError | None = None
        try:
            found = {path_of(item): item for item in self._files.recordings()}
        except FileNotFoundError as error:
            missing = error
        glob = self.pattern.replace("[", "[[]")
        for path in sorted(self.root.glob(glob)):
            suffix = suffix_of(path)
            if path in found or not path.is_file() or suffix not in (*_IMAGES, *_SURFACES, ".nwb"):
                continue
            if suffix in _IMAGES and not _has_volumes(path):
                continue
            place = path.relative_to(self.root).as_posix()
            subject = place.removesuffix(suffix).replace("/", "-")
            found[path] = Recording(dataset=self.dataset, subject=subject, path=path)
        if not found and missing is not None:
            needy = [p for p in sorted(self.root.glob(glob)) if suffix_of(p) in _NEED_CARD]
            if needy:
                raise FileNotFoundError(f"{needy[0]}: {_why_not(needy[0])}")
            raise missing
        return [found[path] for path in sorted(found)]

    def load(self, recording: Recording) -> Signal:
        """One recording."""
        path = path_of(recording)
        suffix = suffix_of(path)
        if suffix in (*_IMAGES, *_SURFACES):
            from neurofm.io.mri.fmri import read_bold

            return read_bold(path, recording)
        if suffix == ".nwb":
            from neurofm.io.spiking.spikes import SpikeReader

            return SpikeReader(path.name, dataset=self.dataset, root=path.parent).load(recording)
        return _placed(self._files.load(recording))

    def slabs(self, recording: Recording, *, max_bytes: int) -> Iterator[Signal]:
        """As `Corpus.slabs`: images in groups of voxels, other recordings whole."""
        path = path_of(recording)
        if suffix_of(path) not in (*_IMAGES, *_SURFACES):
            yield self.load(recording)
            return
        from neurofm.io.mri.fmri import bold_slabs

        yield from bold_slabs(path, recording, max_bytes=max_bytes)


def _has_volumes(path: Path) -> bool:
    """Whether an image is a run; one that cannot be opened counts, so that its error is seen."""
    from neurofm.io.mri.images import open_image

    if path.name.lower().endswith((".dlabel.nii", ".dscalar.nii", ".dconn.nii")):
        return False
    if path.name.lower().endswith(_SURFACES):
        return True
    try:
        return open_image(path).n_volumes > 1
    except (ValueError, OSError):
        return True


def _placed(signal: Signal) -> Signal:
    """Template positions only if most channel names are scalp sites."""
    sensors = signal.sensors
    free = np.flatnonzero((sensors.kind == Kind.EEG) & ~sensors.has_position)
    names = list(sensors.names)
    for i in free:
        names[i] = standard_name(names[i])
    position = sensors.position.copy()
    position[free] = positions_of([names[i] for i in free], "standard_1005")
    placed = int(np.isfinite(position[free]).all(axis=1).sum())
    if placed <= len(free) / 2 or len(set(names)) < len(names):
        return signal
    return replace(signal, sensors=replace(sensors, names=tuple(names), position=position))


def cards_of(folder: Path) -> list[tuple[str, Path]]:
    """Cards whose recordings this folder holds, by its name, with the root of each.

    The end of the folder's path is compared with the `folder` of the cards: ".../data/ieeg" holds
    what cards with `folder: ieeg` describe, and "spikes" what "spikes/linear-track" does.
    """
    parts = folder.resolve().parts
    found = []
    for name in cards.names("datasets"):
        wanted = Path(cards.read("datasets", name).get("folder", name) or "/").parts
        for n in range(len(wanted), 0, -1):
            root = folder.joinpath(*wanted[n:])
            if wanted[0] != "/" and parts[-n:] == wanted[:n] and root.is_dir():
                found.append((name, root))
                break
    return found


def auxiliary(path: Path) -> list[str]:
    """What files hold that are no recordings, one line each: images of one volume, RDMs.

    Args:
        path: A file, or a folder that is searched.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    lines: list[str] = []
    for file in files:
        try:
            lines += _described(file)
        except (ValueError, OSError):
            continue  # not of that kind, or a recording that a card must explain
    return lines


def _described(file: Path) -> list[str]:
    suffix = suffix_of(file)
    if suffix in (*_IMAGES, ".gii") and not (suffix in _IMAGES and _has_volumes(file)):
        from neurofm.io.mri.fmri_reader import describe_image

        return describe_image(file)
    if suffix == ".mat":
        from neurofm.io.rdms import describe_rdms

        return [f"{file.name}: {line}" for line in describe_rdms(file)]
    return []


def rest_of(folder: Path, corpora: Sequence[Corpus]) -> Corpus | None:
    """A corpus of the recordings in a folder that no opened corpus has; None if there are none."""
    known: set[Path] = set()
    for corpus in corpora:
        known |= {path_of(item).resolve() for item in corpus.recordings()}
    reader = AnyReader("**/*", dataset=folder.resolve().name, root=folder)
    try:
        found = [item for item in reader.recordings() if path_of(item).resolve() not in known]
    except FileNotFoundError:
        return None
    return Corpus(f"{folder.name} (no card)", {}, folder, _Some(reader, found)) if found else None


@dataclass(frozen=True)
class _Some:
    """Some recordings of a reader."""

    reader: Reader
    found: list[Recording]

    def recordings(self) -> list[Recording]:
        return self.found

    def load(self, recording: Recording) -> Signal:
        return self.reader.load(recording)
