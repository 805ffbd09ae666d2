"""Every card of a public corpus opens, loads and passes `neurofm check` on a miniature of it.

The miniature is generated from the card alone: its layout, channels, rate, unit, labels. A card
with a reader the generator does not know fails here.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from miniatures import (
    CORPORA,
    Plan,
    another,
    fill,
    make_annotated,
    make_arrays,
    make_folder,
    make_mat,
    make_table,
    write_raw,
)
from response_miniatures import make_bold5000, make_nsd, make_things_fmri, make_things_meg

from neurofm import cards
from neurofm.cli import main
from neurofm.io import open_corpus
from neurofm.units import Kind


def make_bids(plan: Plan) -> None:
    arguments = plan.arguments
    datatype = arguments["datatype"]
    root = plan.root
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    (root / "participants.tsv").write_text(
        "participant_id\tage\tsex\nsub-01\t31\tF\nsub-02\tn/a\tM\n"
    )
    labels = [label.replace("x", "_foc") for label in plan.labels({})] or ["something"]
    column = arguments.get("event_column", "trial_type")
    rows = [f"{0.1 + 0.05 * i}\t0.02\t{label}" for i, label in enumerate(labels)]
    for subject in ("01", "02"):
        stem = f"sub-{subject}_task-{arguments.get('task', 'x')}_run-1"
        folder = root / f"sub-{subject}" / {"bold": "func"}.get(datatype, datatype)
        folder.mkdir(parents=True)
        events = "\n".join([f"onset\tduration\t{column}", *rows]) + "\n"
        (folder / f"{stem}_events.tsv").write_text(events)
        if datatype == "bold":
            make_bold(plan, folder, stem)
            continue
        (root / f"task-{arguments.get('task', 'x')}_{datatype}.json").write_text(
            '{"PowerLineFrequency": 50}'
        )
        signal = plan.signal([])
        suffix = ".fif" if datatype == "meg" else ".edf"
        write_raw(folder / f"{stem}_{datatype}{suffix}", signal)
        kinds = [Kind(int(k)).name for k in signal.sensors.kind]
        units = {"MAG": "T", "AXIAL": "T", "GRAD": "T/m"}
        words = {"MAG": "MEGMAG", "GRAD": "MEGGRADPLANAR", "AXIAL": "MEGGRADAXIAL"}
        lines = [
            f"{name}\t{words.get(kind, kind)}\t{units.get(kind, 'uV')}\t{'good' if i else 'bad'}"
            for i, (name, kind) in enumerate(zip(signal.sensors.names, kinds, strict=True))
        ]
        head = "name\ttype\tunits\tstatus"
        (folder / f"{stem}_channels.tsv").write_text("\n".join([head, *lines]) + "\n")


def make_bold(plan: Plan, folder: Path, stem: str) -> None:
    arguments = plan.arguments
    if "derivative" in arguments:
        folder = plan.root / "derivatives" / arguments["derivative"] / folder.relative_to(plan.root)
        folder.mkdir(parents=True)
    if "space" in arguments:
        (folder / f"{stem}_desc-confounds_timeseries.tsv").write_text(
            "\t".join(arguments.get("confounds") or ["csf"])
            + "\n"
            + "\n".join(
                "\t".join(f"{x:.3f}" for x in row)
                for row in np.random.default_rng(2).normal(
                    size=(20, len(arguments.get("confounds") or ["csf"]))
                )
            )
        )
        mask = folder / f"{stem}_space-{arguments['space']}_desc-brain_mask.nii.gz"
        write_nifti(mask, np.ones((4, 4, 4), np.int16), 0.0)
        stem = f"{stem}_space-{arguments['space']}_desc-preproc"
    tr = plan.expected.get("tr_s", 2.0)
    (plan.root / "task-x_bold.json").write_text(json.dumps({"RepetitionTime": 99}))
    (folder / f"{stem}_bold.json").write_text(json.dumps({"RepetitionTime": tr}))
    write_nifti(folder / f"{stem}_bold.nii.gz", run(), tr)
    if "atlas" in arguments:
        parcels = np.arange(64, dtype=np.int16).reshape(4, 4, 4) // 8
        write_nifti(plan.root / arguments["atlas"], parcels, 0.0)


def run() -> np.ndarray:
    return np.round(1000 + 10 * another().standard_normal((4, 4, 4, 20)))


def write_nifti(path: Path, data: np.ndarray, tr_s: float) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data.astype(np.int16), np.diag([3.0, 3.0, 3.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header.set_zooms((3.0, 3.0, 3.0, tr_s))
    image.to_filename(path)


def make_images(plan: Plan) -> None:
    import nibabel

    path = plan.root / fill(plan.arguments["pattern"], {})
    tr = plan.expected.get("tr_s", 2.0)
    if not path.name.endswith(".dtseries.nii"):
        write_nifti(path, run(), tr)
        return
    path.parent.mkdir(parents=True)
    brain = nibabel.cifti2.BrainModelAxis.from_mask(np.ones(30, bool), name="CortexLeft")
    series = nibabel.cifti2.SeriesAxis(0, tr, 20)
    data = run().reshape(-1, 20)[:30].T
    nibabel.cifti2.Cifti2Image(data.astype(np.float32), header=(series, brain)).to_filename(path)


MAKERS: dict[str, Callable[[Plan], None]] = {
    "FolderReader": make_folder,
    "AnnotatedReader": make_annotated,
    "TableReader": make_table,
    "ArrayReader": make_arrays,
    "MatReader": make_mat,
    "BIDSReader": make_bids,
    "FMRIReader": make_images,
    "NSDReader": make_nsd,
    "ThingsFMRIReader": make_things_fmri,
    "ThingsMEGReader": make_things_meg,
    "BOLD5000Reader": make_bold5000,
}


@pytest.mark.filterwarnings("ignore::neurofm.io.quality.RecordingWarning")
@pytest.mark.parametrize("name", CORPORA)
def test_a_miniature_of_every_corpus_is_read_and_passes_check(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path))
    card = cards.read("datasets", name)
    reader = card["reader"]["class_path"].rpartition(".")[2]
    assert reader in MAKERS, f"the catalogue's tests cannot make a miniature for {reader}"
    MAKERS[reader](Plan(name, card, tmp_path / card.get("folder", name)))
    corpus = open_corpus(name)
    recordings = corpus.recordings()
    assert len({item.id for item in recordings}) == len(recordings)
    signal = corpus.load(recordings[0])
    expected = card.get("expected") or {}
    if card.get("events") or expected.get("labels"):
        labels = {event.label for event in signal.events} - {"EDGE boundary"}
        assert labels and labels <= set(expected["labels"])
    for kind, count in (expected.get("kinds") or {}).items():
        assert int((signal.sensors.kind == Kind[kind.upper()]).sum()) == count
    capsys.readouterr()  # what readers printed
    main(["check", name, "--json"])
    found = json.loads(capsys.readouterr().out)
    every = [p for item in found["recordings"] for p in item["problems"]] + found["problems"]
    assert [p["what"] for p in every if p["severity"] == "error"] == []
    assert found["ok"] and found["summary"]["readable"] == len(recordings)


def test_the_catalogue_holds_at_least_sixty_corpora_of_four_modalities():
    modalities = [cards.read("datasets", name)["modality"] for name in CORPORA]
    assert len(CORPORA) >= 60
    assert {"eeg", "meg", "ieeg", "fmri"} <= set(itertools.chain(modalities))


@pytest.mark.parametrize("name", CORPORA)
def test_public_corpora_say_where_they_are_and_how_to_get_them(name):
    card = cards.read("datasets", name)
    assert str(card["url"]).startswith("https://")
    assert card["access"] in ("open", "agreement")
    assert not (card["access"] == "agreement" and "fetch" in card)
