"""Miniatures of corpora of responses, in the layout that their publishers use."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from miniatures import Plan, another
from PIL import Image

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])  # stored right to left
SHAPE = (4, 3, 2)
NSD_IMAGES = 30


def nifti(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(data, affine).to_filename(path)


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def table(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def half_mask() -> np.ndarray:
    mask = np.zeros(SHAPE, np.int16)
    mask[1:3] = 1
    return mask


def make_nsd(plan: Plan) -> None:
    """Two people: one with HDF5 and NIfTI of two sessions, one with NIfTI of one."""
    import h5py
    import scipy.io

    rng, root = np.random.default_rng(0), plan.root
    design = {
        "masterordering": rng.permutation(np.arange(1500) % 20)[None] + 1,
        "subjectim": np.stack([rng.permutation(NSD_IMAGES)[:20] + 1 for _ in range(8)]),
        "sharedix": np.array([[3, 9, 27]]),
    }
    path = root / "nsddata/experiments/nsd/nsd_expdesign.mat"
    path.parent.mkdir(parents=True)
    scipy.io.savemat(path, design)
    for subject, sessions in (("subj01", 2), ("subj02", 1)):
        roi = root / f"nsddata/ppdata/{subject}/func1pt8mm/roi"
        nifti(roi / "nsdgeneral.nii.gz", half_mask())
        labels = np.zeros(SHAPE, np.int16)
        labels[1] = 7
        nifti(roi / "prf-visualrois.nii.gz", labels)
        folder = root / f"nsddata_betas/ppdata/{subject}/func1pt8mm/betas_fithrf_GLMdenoise_RR"
        for session in range(1, sessions + 1):
            betas = another().integers(-900, 900, (*SHAPE, 750)).astype(np.int16)
            nifti(folder / f"betas_session{session:02d}.nii.gz", betas)
            if subject == "subj01":
                with h5py.File(folder / f"betas_session{session:02d}.hdf5", "w") as file:
                    file["betas"] = betas.T
    path = root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file["imgBrick"] = rng.integers(0, 256, (NSD_IMAGES, 25, 25, 3), dtype=np.uint8)


def make_things_fmri(plan: Plan) -> None:
    """Two sessions of two runs; in each the same two test pictures."""
    import h5py

    for subject in ("01", "02"):
        folder = plan.root / "betas_csv"
        trials = []
        for session in (1, 2):
            for run in (1, 2):
                shown = [f"dog_{session}{run}s", "cat_01b", "ice_cream_03s"]
                for name in shown:
                    kind = "train" if name.startswith("dog") else "test"
                    trials.append(
                        {
                            "trial_type": kind,
                            "session": session,
                            "run": run,
                            "subject_id": 1,
                            "trial_id": len(trials),
                            "stimulus": f"{name}.jpg",
                        }
                    )
        table(folder / f"sub-{subject}_StimulusMetadata.csv", trials)
        voxels = [
            {
                "voxel_id": i,
                "subject_id": 1,
                "voxel_x": i,
                "voxel_y": 1,
                "voxel_z": 0,
                "nc_singletrial": 0.5,
                "prf-size": 1.0,
                "V1": int(i < 3),
                "V2": int(i == 3),
                **dict.fromkeys(("V3", "hV4", "VO1", "VO2", "lLOC", "rLOC", "lFFA"), 0),
                **dict.fromkeys(("rFFA", "lPPA", "rPPA", "lEBA"), 0),
                "rEBA": int(i == 6),
            }
            for i in range(8)
        ]
        table(folder / f"sub-{subject}_VoxelMetadata.csv", voxels)
        with h5py.File(folder / f"sub-{subject}_ResponseData.h5", "w") as file:
            group = file.create_group("ResponseData")
            group["block0_values"] = another().standard_normal((8, len(trials)))
            group["block1_values"] = np.arange(8)[:, None]
        nifti(
            plan.root / f"brainmasks/sub-{subject}_space-T1w_brainmask.nii.gz",
            np.ones((8, 2, 2), np.int16),
        )
    for name in ("cat_01b", "ice_cream_03s", "dog_11s"):
        picture(plan.root / "THINGS-images" / name.rpartition("_")[0] / f"{name}.jpg", len(name))


def make_things_meg(plan: Plan) -> None:
    """Two sessions with a catch trial each."""
    import mne

    for subject in ("1", "2"):
        rows = []
        for session in (1, 2):
            for i in range(4):
                name = ("dog_0" + str(session) + "s", "cat_01b", "catch", "ice_cream_03s")[i]
                kind = ("exp", "test", "catch", "test")[i]
                path = f"images_meg/{name.rpartition('_')[0]}/{name}.jpg"
                rows.append(
                    {
                        "trial_type": kind,
                        "session_nr": session,
                        "run_nr": 1 + i // 2,
                        "image_path": path,
                        "things_image_nr": i + 1,
                    }
                )
        table(plan.root / "sourcedata" / f"sample_attributes_P{subject}.csv", rows)
        info = mne.create_info([f"MLO{i + 1}" for i in range(4)], 200.0, "mag")
        events = np.column_stack([np.arange(8) * 100, np.zeros(8, int), np.arange(8) + 1])
        data = another().standard_normal((8, 4, 281))
        epochs = mne.EpochsArray(data, info, events, tmin=-0.1, verbose="error")
        folder = plan.root / "derivatives/preprocessed"
        folder.mkdir(parents=True, exist_ok=True)
        epochs.save(folder / f"preprocessed_P{subject}-epo.fif", overwrite=True, verbose="error")


def make_bold5000(plan: Plan) -> None:
    """Two people with two sessions; the betas' affine is not the mask's."""
    for subject in ("CSI1", "CSI2"):
        nifti(plan.root / f"{subject}_brainmask.nii.gz", half_mask())
        names = ["COCO_train2014_01.jpg", "n01440764_1.JPEG", "bridge2.jpg", f"{subject}.png"]
        names += ["rep_COCO_train2014_01.jpg", "kitchen12.jpg"]
        (plan.root / f"{subject}_imgnames.txt").write_text("\n".join(names) + "\n")
        for session in (1, 2):
            betas = another().standard_normal((*SHAPE, 3)).astype(np.float32)
            name = f"{subject}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{session:02d}.nii.gz"
            nifti(plan.root / name, betas, np.eye(4))
    for name in ("COCO_train2014_01.jpg", "bridge2.jpg"):
        picture(plan.root / "BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli/x" / name, 1)
