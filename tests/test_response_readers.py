"""Readers of responses give the right number for voxel, trial and picture, and refuse the rest."""

from __future__ import annotations

import gzip
import shutil

import nibabel
import numpy as np
import pytest
import scipy.io
from miniatures import Plan
from response_miniatures import make_bold5000, make_nsd, make_things_fmri, make_things_meg, nifti

from neurofm import cards
from neurofm.cli import main
from neurofm.data import ResponseData
from neurofm.io import open_corpus

MAKERS = {
    "nsd_betas": make_nsd,
    "things_fmri_betas": make_things_fmri,
    "things_meg_epochs": make_things_meg,
    "bold5000_betas": make_bold5000,
}


@pytest.fixture
def opened(tmp_path):
    def make(name: str, **arguments):
        root = tmp_path / name
        root.mkdir()
        MAKERS[name](Plan(name, cards.read("datasets", name), root))
        return open_corpus(name, root=root).reader, root

    return make


def test_nsd_gives_betas_of_the_mask_for_the_pictures_of_the_design(opened):
    reader, root = opened("nsd_betas")
    assert reader.people() == ["01", "02"]
    found = reader.responses("1")
    assert found.values.shape == (1500, 12) and found.unit == "%"
    design = scipy.io.loadmat(root / "nsddata/experiments/nsd/nsd_expdesign.mat")
    folder = root / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    image = nibabel.load(folder / "betas_session02.nii.gz")
    trial = 17
    shown = design["subjectim"][0, design["masterordering"][0, 750 + trial] - 1] - 1
    assert found.stimulus[750 + trial] == f"nsd{shown:05d}" and found.run[750 + trial] == "02"
    betas = np.asarray(image.dataobj)[..., trial] / 300
    for channel in range(12):
        place = np.linalg.inv(image.affine) @ [*(1000 * found.sensors.position[channel]), 1]
        x, y, z = np.round(place[:3]).astype(int)
        assert found.values[750 + trial, channel] == pytest.approx(betas[x, y, z], abs=1e-5)
        assert found.sensors.region[channel] == ("hV4" if x == 1 else "")
    assert reader.shared() == ("nsd00002", "nsd00008", "nsd00026")
    assert reader.images(["nsd00002"]).shape == (1, 3, 128, 128)
    with pytest.raises(ValueError, match="no picture 'nsd00099'"):
        reader.images(["nsd00099"])


def test_nsd_hdf5_and_nifti_are_the_same_responses(opened):
    reader, root = opened("nsd_betas")
    first = reader.responses("01")
    for path in root.rglob("*.hdf5"):
        if "betas" in path.name:
            path.unlink()
    second = reader.responses("01")
    np.testing.assert_array_equal(first.values, second.values)
    assert first.stimulus == second.stimulus


def test_nsd_refuses_masks_of_another_space_and_short_sessions(opened):
    reader, root = opened("nsd_betas")
    mask = root / "nsddata/ppdata/subj02/func1pt8mm/roi/nsdgeneral.nii.gz"
    nifti(mask, np.ones((5, 3, 2), np.int16))
    with pytest.raises(ValueError, match="mask of the same space"):
        reader.responses("02")
    hdf5 = root / "nsddata/ppdata/subj01/func1pt8mm/roi/nsdgeneral.nii.gz"
    shutil.copy(mask, hdf5)
    with pytest.raises(ValueError, match=r"betas of 4 x 3 x 2 voxels, but the mask .* 5 x 3 x 2"):
        reader.responses("01")
    nifti(mask, np.zeros((4, 3, 2), np.int16))
    with pytest.raises(ValueError, match="the mask is empty"):
        reader.responses("02")
    nifti(mask, np.ones((4, 3, 2), np.int16))
    betas = next(root.glob("nsddata_betas/ppdata/subj02/*/*/betas_session01.nii.gz"))
    nifti(betas, np.zeros((4, 3, 2, 700), np.int16))
    with pytest.raises(ValueError, match="700 trials, expected the 750"):
        reader.responses("02")
    betas.write_bytes(gzip.compress(b"not an image" * 50))
    with pytest.raises(ValueError, match="betas_session01"):
        reader.responses("02")
    with pytest.raises(ValueError, match="no subject '9'; there are 01, 02"):
        reader.responses("9")


def test_things_fmri_reads_its_tables(opened):
    import h5py

    reader, root = opened("things_fmri_betas")
    found = reader.responses("1")
    assert found.values.shape == (12, 5) and found.sensors.region == ("V1",) * 3 + ("V2", "rEBA")
    assert found.run[:4] == ("01-01",) * 3 + ("01-02",) and found.stimulus[0] == "dog_11s"
    with h5py.File(root / "betas_csv/sub-01_ResponseData.h5") as file:
        block = file["ResponseData/block0_values"][:]
    np.testing.assert_allclose(found.values, block[[0, 1, 2, 3, 6]].T, rtol=1e-6)
    np.testing.assert_allclose(found.sensors.position[3], [-0.006, 0.002, 0], atol=1e-9)
    assert reader.shared() == ("cat_01b", "ice_cream_03s")
    assert reader.categories_of(["ice_cream_03s"]) == ("ice_cream",)
    assert reader.images(["cat_01b", "ice_cream_03s"]).shape == (2, 3, 128, 128)
    with pytest.raises(FileNotFoundError, match="1 of 1 pictures are missing, such as 'owl_01b'"):
        reader.images(["owl_01b"])
    stimuli = root / "betas_csv/sub-01_StimulusMetadata.csv"
    lines = stimuli.read_text().splitlines()
    stimuli.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"\(8, 12\) numbers for 11 trials"):
        reader.responses("01")
    stimuli.write_text(lines[0].replace("session", "day") + "\n" + lines[1] + "\n")
    with pytest.raises(ValueError, match="no column session; there are trial_type, day"):
        reader.responses("01")


def test_things_meg_leaves_catch_trials_out(opened):
    reader, root = opened("things_meg_epochs")
    found = reader.responses("2")
    assert found.values.shape == (6, 4, 181) and found.sfreq == 200
    assert found.start_s == pytest.approx(-0.1) and found.unit == "z"
    assert found.stimulus == ("dog_01s", "cat_01b", "ice_cream_03s") * 1 + (
        "dog_02s",
        "cat_01b",
        "ice_cream_03s",
    )
    assert found.run[2] == "01-02" and reader.shared() == ("cat_01b", "ice_cream_03s")
    table = root / "sourcedata/sample_attributes_P2.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match="8 epochs for 7 trials"):
        reader.responses("2")


def test_bold5000_counts_names_over_sessions(opened):
    reader, root = opened("bold5000_betas")
    found = reader.responses("1")
    assert found.values.shape == (6, 12)
    assert found.stimulus[3:] == ("CSI1", "COCO_train2014_01", "kitchen12")
    assert found.run == ("01",) * 3 + ("02",) * 3
    assert reader.shared() == ("COCO_train2014_01",)
    names = ["COCO_train2014_01", "n01440764_1", "bridge2"]
    assert reader.categories_of(names) == ("COCO", "n01440764", "bridge")
    assert reader.images(names[::2]).shape == (2, 3, 128, 128)
    betas = root / "CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-02.nii.gz"
    stored = np.asarray(nibabel.load(betas).dataobj)
    place = np.linalg.inv(np.diag([-2.0, 2, 2, 1])) @ [*(1000 * found.sensors.position[5]), 1]
    x, y, z = np.round(place[:3]).astype(int)
    assert found.values[4, 5] == pytest.approx(stored[x, y, z, 1], rel=1e-6)
    (root / "CSI1_imgnames.txt").write_text("a.jpg\nb.jpg\n")
    with pytest.raises(ValueError, match="lists 2 trials, sessions 01, 02 have 6 volumes"):
        reader.responses("1")


@pytest.mark.parametrize(("name", "words"), [(n, "no file") for n in MAKERS])
def test_an_empty_folder_says_what_is_missing(name, words, tmp_path):
    with pytest.raises(FileNotFoundError, match=words):
        open_corpus(name, root=tmp_path).reader.recordings()


def test_check_names_some_of_many_pictures_and_counts_the_rest(tmp_path, capsys):
    card = tmp_path / "many.yaml"
    arguments = "{subjects: 1, runs: 1, repeats: 1, n_train: 70, n_test: 5, n_voxels: 8, size: 32}"
    card.write_text(
        "description: x\nlicense: BSD-3-Clause\ncitation: none\nmodality: fmri\nfolder: null\n"
        "reader:\n  class_path: neurofm.io.SyntheticPictureFMRIReader\n"
        f"  init_args: {arguments}\n"
    )
    main(["check", str(card)])
    assert "and 15 more labels" in capsys.readouterr().out


def test_one_line_makes_pairs_of_a_corpus(opened):
    _, root = opened("things_fmri_betas")
    data = ResponseData(
        "things_fmri_betas",
        root=root,
        subjects=["01"],
        validate=0.0,
        standardize=None,
        stimuli={
            n: np.random.default_rng(i).random(3).astype(np.float32)
            for i, n in enumerate(
                [f"dog_{s}{r}s" for s in (1, 2) for r in (1, 2)] + ["cat_01b", "ice_cream_03s"]
            )
        },
    )
    batch = next(iter(data.test_dataloader()))
    assert batch.y.shape == (2, 5) and data.regions[-1] == "rEBA"
