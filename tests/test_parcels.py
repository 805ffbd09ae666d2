"""Parcel time courses: planted sources come back, leakage goes, signs agree across people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mne
import nibabel
import numpy as np
import pytest

from neurofm.io import ParcelReader, save_template
from neurofm.io.sources.parcellation import (
    Parcellation,
    parcels_from_centres,
    parcels_from_image,
    parcels_from_labels,
    read_parcels,
    source_points,
)
from neurofm.io.sources.parcels import beamformer, minimum_norm, parcel_signal, parcel_weights
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

WHO = Recording("tiny", "1")
CENTRE = np.array([0.0, 0.0, 0.04])  # of the head sphere, metres
DIRECTIONS = {
    "left": (-1, 0, 0.3),
    "right": (1, 0, 0.3),
    "front": (0, 1, 0.3),
    "back": (0, -1, 0.3),
}
PLACES = {
    name: CENTRE + [0, 0, 0.01] + 0.04 * np.array(way) / np.linalg.norm(way)
    for name, way in DIRECTIONS.items()
}


def helmet(n: int = 60, sfreq: float = 250.0) -> mne.Info:
    """Radial magnetometers evenly spread over the upper part of a sphere of 12 cm."""
    i = np.arange(n) + 0.5
    polar, around = np.arccos(1 - 1.1 * i / n), np.pi * (1 + 5**0.5) * i
    outward = np.stack(
        [np.cos(around) * np.sin(polar), np.sin(around) * np.sin(polar), np.cos(polar)], axis=1
    )
    made = mne.create_info([f"MEG{i:04d}" for i in range(n)], sfreq, "mag")
    with made._unlock():
        for channel, ez in zip(made["chs"], outward, strict=True):
            ex = np.cross(ez, [0.3, 0.5, 0.2])
            ex /= np.linalg.norm(ex)
            channel["loc"][:] = [*0.12 * ez, *ex, *np.cross(ez, ex), *ez]
            channel["coil_type"] = 3024
            channel["coord_frame"] = 1
        shift = np.eye(4)
        shift[:3, 3] = CENTRE
        made["dev_head_t"] = mne.Transform("meg", "head", shift)
    return made


@dataclass
class Planted:
    """A spherical head with one dipole in each of four parcels; `truth` is `parcel time`."""

    raw: mne.io.RawArray
    forward: mne.Forward
    parcels: Parcellation
    truth: np.ndarray

    def recovered(self, signal: Signal) -> np.ndarray:
        """|correlation| of each parcel with its own planted time course."""
        n = len(self.truth)
        return np.abs(np.diag(np.corrcoef(signal.data, self.truth)[:n, n:]))


def smooth_noise(rng: np.random.Generator, n_times: int, widths: tuple[int, ...]) -> np.ndarray:
    made = [np.convolve(rng.standard_normal(n_times), np.hanning(w), "same") for w in widths]
    return np.array([row / row.std() for row in made])


@pytest.fixture(scope="module")
def planted() -> Planted:
    rng = np.random.default_rng(5)
    info = helmet()
    head = mne.make_sphere_model(r0=CENTRE, head_radius=0.09, info=info, verbose="error")
    space = mne.setup_volume_source_space(
        pos=15.0,
        sphere=(*CENTRE, 0.07),
        sphere_units="m",
        mindist=0,
        exclude=20.0,
        verbose="error",
    )
    forward = mne.make_forward_solution(
        info, trans=None, src=space, bem=head, eeg=False, verbose="error"
    )
    parcels = parcels_from_centres(forward, PLACES, radius_m=0.025)
    points, _ = source_points(forward)
    gain = forward["sol"]["data"].reshape(len(info["ch_names"]), -1, 3)
    truth = smooth_noise(rng, 4000, (5, 9, 13, 17))
    field = 0.0
    for place, course in zip(parcels.position, truth, strict=True):
        nearest = int(np.linalg.norm(points - place, axis=1).argmin())
        moment = np.cross(points[nearest] - CENTRE, [0.1, 0.3, 0.9])  # not radial: seen by MEG
        moment *= 20e-9 / np.linalg.norm(moment)
        field = field + np.outer(gain[:, nearest] @ moment, course)
    noise = 10e-15 * rng.standard_normal(np.shape(field))
    raw = mne.io.RawArray(field + noise, info, verbose="error")
    return Planted(raw, forward, parcels, truth)


@pytest.fixture(scope="module")
def inverse(planted: Planted) -> Any:
    noise = mne.make_ad_hoc_cov(planted.raw.info, verbose="error")
    return mne.minimum_norm.make_inverse_operator(
        planted.raw.info, planted.forward, noise, loose=1.0, fixed=False, verbose="error"
    )


@pytest.mark.parametrize(("summary", "least"), [("pc", 0.98), ("mean", 0.93)])
def test_a_beamformer_recovers_planted_parcels(summary, least, planted):
    spatial = beamformer(planted.raw, planted.forward)
    signal = parcel_signal(planted.raw, WHO, spatial, planted.parcels, summary=summary)
    assert planted.recovered(signal).min() > least
    assert signal.sensors.names == tuple(PLACES)
    assert signal.sensors.region == tuple(PLACES)
    assert set(signal.sensors.kind) == {int(Kind.SOURCE)}
    assert signal.sensors.frame == "head"
    np.testing.assert_allclose(signal.sensors.position, list(PLACES.values()), atol=0.015)
    assert signal.details["parcels"]["unit"] == "noise SD"


def test_a_parcel_without_its_source_is_not_recovered(planted):
    """The measure of recovery can fail: time courses of other parcels do not pass it."""
    spatial = beamformer(planted.raw, planted.forward)
    signal = parcel_signal(planted.raw, WHO, spatial, planted.parcels)
    shuffled = Planted(planted.raw, planted.forward, planted.parcels, planted.truth[[1, 2, 3, 0]])
    assert shuffled.recovered(signal).max() < 0.3


@pytest.mark.parametrize("method", ["MNE", "dSPM", "sLORETA"])
def test_a_minimum_norm_operator_s_best_parcel_is_the_planted_one(method, planted, inverse):
    spatial = minimum_norm(planted.raw, inverse, method=method)
    signal = parcel_signal(planted.raw, WHO, spatial, planted.parcels)
    table = np.abs(np.corrcoef(signal.data, planted.truth)[:4, 4:])
    np.testing.assert_array_equal(table.argmax(axis=1), np.arange(4))
    assert planted.recovered(signal).min() > 0.6


def test_the_operator_s_matrix_does_what_mne_does(planted, inverse):
    spatial = minimum_norm(planted.raw, inverse, method="dSPM")
    expected = mne.minimum_norm.apply_inverse_raw(
        planted.raw, inverse, lambda2=1.0, method="dSPM", pick_ori="vector", verbose="error"
    ).data
    found = spatial.weights @ planted.raw.get_data()
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


def test_orthogonalization_removes_correlation_at_lag_zero_and_keeps_the_sources(planted):
    spatial = beamformer(planted.raw, planted.forward)
    plain = parcel_signal(planted.raw, WHO, spatial, planted.parcels)
    clean = parcel_signal(planted.raw, WHO, spatial, planted.parcels, orthogonalize=True)
    off = ~np.eye(4, dtype=bool)
    assert np.abs(np.corrcoef(plain.data)[off]).max() > 0.02
    assert np.abs(np.corrcoef(clean.data)[off]).max() < 1e-5
    assert planted.recovered(clean).min() > 0.98
    assert clean.history[-1].endswith("orthogonalized")


def test_filters_of_another_source_space_are_refused(planted):
    spatial = beamformer(planted.raw, planted.forward)
    own = planted.parcels
    other = Parcellation(own.names, own.members, own.position, "head", own.n_sources - 1)
    with pytest.raises(ValueError, match="sources, a parcellation of"):
        parcel_weights(spatial, other)
    with pytest.raises(ValueError, match="'median' is not one of pc, mean"):
        parcel_weights(spatial, own, summary="median")


def test_an_operator_of_another_system_is_refused_and_bad_channels_are_left_out(planted):
    renamed = planted.raw.copy().rename_channels(lambda name: name.replace("MEG", "MLC"))
    with pytest.raises(ValueError, match=r"60 channels .* have no good one in common"):
        beamformer(renamed, planted.forward)
    marked = planted.raw.copy()
    marked.info["bads"] = ["MEG0003"]
    marked._data[3] = 1e-9
    spatial = beamformer(marked, planted.forward)
    assert "MEG0003" not in spatial.channels
    assert planted.recovered(parcel_signal(marked, WHO, spatial, planted.parcels)).min() > 0.98


def test_a_parcel_without_sources_is_named(planted):
    with pytest.raises(ValueError, match=r"1 of 2 parcels hold none of the .* sources: far"):
        parcels_from_centres(
            planted.forward, {"far": (0.3, 0.0, 0.0), "left": PLACES["left"]}, radius_m=0.03
        )


def test_an_atlas_image_gives_the_parcels_of_its_voxels(planted, tmp_path):
    to_mni = np.eye(4)
    to_mni[:3, 3] = [0.0, -0.02, -0.04]
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-100, -100, -100]
    image = np.zeros((100, 100, 100), dtype=np.int16)
    image[:50], image[50:] = 7, 9  # left and right half of the brain, in MNI millimetres
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "atlas.nii.gz")
    parcels = read_parcels(planted.forward, tmp_path / "atlas.nii.gz", head_to_mni=to_mni)
    assert parcels.names == ("parcel-7", "parcel-9")
    assert parcels.frame == "mni"
    points, _ = source_points(planted.forward, to_mni)
    np.testing.assert_array_equal(np.sort(np.concatenate(parcels.members)), range(len(points)))
    assert points[parcels.members[0], 0].max() < 0.001
    named = parcels_from_image(
        planted.forward,
        tmp_path / "atlas.nii.gz",
        head_to_mni=to_mni,
        names={9: "right", 7: "left"},
    )
    assert named.names == ("right", "left")
    assert named.position[0, 0] > 0.01
    with pytest.raises(ValueError, match="an atlas image needs the way from the head to MNI"):
        read_parcels(planted.forward, tmp_path / "atlas.nii.gz")
    layers = np.stack([image == 7, image == 9], axis=3).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(layers, affine), tmp_path / "layers.nii")
    again = read_parcels(planted.forward, tmp_path / "layers.nii", head_to_mni=to_mni)
    np.testing.assert_array_equal(again.members[1], parcels.members[1])


def cortex() -> dict[str, Any]:
    """A source space of six of ten vertices on each of two surfaces."""
    place = np.linspace(0, 0.09, 10)[:, None] * [0, 1.0, 0]
    sides = [
        {
            "type": "surf",
            "vertno": np.array([0, 2, 4, 5, 7, 9]),
            "rr": place + np.array([x, 0, 0]),
            "coord_frame": 4,
        }
        for x in (-0.05, 0.05)
    ]
    return {"src": sides}


def test_labels_give_the_sources_at_their_vertices(tmp_path):
    labels = [
        mne.Label([0, 1, 2], hemi="lh", name="a-lh"),
        mne.Label([3, 4], hemi="lh", name="unknown-lh"),
        mne.Label([5, 6, 7], hemi="rh", name="a-rh"),
    ]
    parcels = parcels_from_labels(cortex(), labels)
    assert parcels.names == ("a-lh", "a-rh")
    assert [own.tolist() for own in parcels.members] == [[0, 1], [9, 10]]
    np.testing.assert_allclose(parcels.position, [[-0.05, 0.01, 0], [0.05, 0.06, 0]], atol=1e-9)
    for label in labels:
        label.save(tmp_path / f"{label.name}.label")
    again = read_parcels(cortex(), tmp_path)
    assert [own.tolist() for own in again.members] == [[0, 1], [9, 10]]


def test_an_annotation_of_one_hemisphere_brings_the_other_along(tmp_path):
    colours = np.array([[1, 0, 0, 0], [9, 0, 0, 0], [0, 9, 0, 0]])
    for side, number in (("lh", [0] * 4 + [1] * 6), ("rh", [1] * 5 + [2] * 5)):
        nibabel.freesurfer.write_annot(
            tmp_path / f"{side}.x.annot", np.array(number), colours, ["unknown", "a", "b"], True
        )
    parcels = read_parcels(cortex(), tmp_path / "lh.x.annot")
    assert parcels.names == ("a-lh", "a-rh", "b-rh")
    assert [own.tolist() for own in parcels.members] == [[2, 3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_labels_need_a_cortical_source_space(planted):
    with pytest.raises(ValueError, match="this one is: discrete"):
        parcels_from_labels(planted.forward, [mne.Label([0], hemi="lh", name="a-lh")])


def test_what_is_no_parcellation_is_refused(planted, tmp_path):
    (tmp_path / "a.tsv").write_text("name\tx\ty\nleft\t1\t2\n")
    with pytest.raises(ValueError, match=r"a\.tsv: expected columns name, x, y, z"):
        read_parcels(planted.forward, tmp_path / "a.tsv")
    (tmp_path / "a.txt").write_text("left")
    with pytest.raises(ValueError, match=r"a\.txt: no parcels there"):
        read_parcels(planted.forward, tmp_path / "a.txt")


def parcel_recording(data: np.ndarray, subject: str) -> Signal:
    names = [f"parcel-{i}" for i in range(len(data))]
    sensors = Sensors.of_kind(names, Kind.SOURCE)
    return Signal(data.astype(np.float32), 250.0, sensors, (), Recording("tiny", subject))


def corpus_of(planted: Planted, root: Path, *, people: int) -> None:
    """Folders of people with a recording and a forward solution, and a table of centres."""
    for subject in range(1, people + 1):
        folder = root / f"sub-{subject}"
        folder.mkdir(parents=True)
        raw = planted.raw.copy()
        raw._data *= (-1) ** subject  # a sign of the whole recording
        raw.set_annotations(mne.Annotations([2.0], [1.0], ["go"]))
        raw.save(folder / "rest_raw.fif", verbose="error")
        mne.write_forward_solution(folder / "a-fwd.fif", planted.forward, verbose="error")
    rows = [f"{name}\t{1000 * x}\t{1000 * y}\t{1000 * z}" for name, (x, y, z) in PLACES.items()]
    (root / "parcels.tsv").write_text("\n".join(["name\tx\ty\tz", *rows]))


def test_a_reader_gives_aligned_parcels_of_every_recording(planted, tmp_path):
    corpus_of(planted, tmp_path, people=2)

    def reader(**changes: Any) -> ParcelReader:
        return ParcelReader(
            "sub-{subject}/rest_raw.fif",
            operator="sub-{subject}/a-fwd.fif",
            parcels="parcels.tsv",
            dataset="d",
            root=tmp_path,
            radius_m=0.025,
            band_hz=(1.0, 60.0),
            **changes,
        )

    first, second = reader().recordings()
    signal = reader().load(first)
    assert planted.recovered(signal).min() > 0.95
    assert [event.label for event in signal.events] == ["go"]
    assert signal.history[1] == "band-pass 1 to 60 Hz (MNE, FIR, zero phase)"
    save_template(tmp_path / "signs.npz", [signal], lags=8)
    aligned = reader(template="signs.npz").load(second)
    assert "flipped the signs of" in aligned.history[-1]
    # One sign for a whole recording stays open; relative signs are those of the template.
    agreement = np.sign((aligned.data * signal.data).sum(axis=1))
    assert len(set(agreement)) == 1
    np.testing.assert_array_equal(reader().load(first).data, signal.data)


def test_a_reader_names_what_is_missing_or_does_not_fit(planted, tmp_path, rng):
    corpus_of(planted, tmp_path, people=1)
    arguments = {"parcels": "parcels.tsv", "dataset": "d", "root": tmp_path, "band_hz": None}
    reader = ParcelReader("sub-{subject}/*_raw.fif", operator="{subject}-fwd.fif", **arguments)
    (recording,) = reader.recordings()
    with pytest.raises(FileNotFoundError, match=r"1-fwd\.fif: no such file"):
        reader.load(recording)
    with pytest.raises(ValueError, match="method 'loreta' is not one of lcmv, MNE"):
        ParcelReader("*", operator="x", method="loreta", **arguments)
    reader = ParcelReader(
        "sub-{subject}/*_raw.fif",
        operator="sub-{subject}/a-fwd.fif",
        template="signs.npz",
        **arguments,
    )
    save_template(tmp_path / "signs.npz", [parcel_recording(rng.random((3, 99)), "1")], lags=8)
    with pytest.raises(ValueError, match=r"signs\.npz: the template has 3 parcels that differ"):
        reader.load(recording)
