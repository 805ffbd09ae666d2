"""The encoding notebook on recordings in a publisher's layout: one variable is all that changes."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from test_notebooks import FOLDER, executed, judge, printed

from neurofm.compat import guard_torchaudio
from neurofm.io import SyntheticPictureFMRIReader

SHAPE = (6, 5, 4)


def write_bold5000(root: Path) -> None:
    """A simulated person as BOLD5000 would be on disk; only the test pictures come again."""
    reader = SyntheticPictureFMRIReader(
        subjects=1, runs=3, n_train=150, n_test=25, n_voxels=60, size=32, signal=2.0
    )
    found, shared = reader.responses("001"), set(reader.shared())
    repeats = found.repeats()
    once = {trials[k % 3] for k, (n, trials) in enumerate(repeats.items()) if n not in shared}
    found = found.pick([i for i, name in enumerate(found.stimulus) if name in shared or i in once])
    root.mkdir(parents=True)
    mask = np.zeros(SHAPE, np.int16)
    mask[:3] = 1
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    nibabel.Nifti1Image(mask, affine).to_filename(root / "CSI1_brainmask.nii.gz")
    for run in ("01", "02", "03"):
        values = found.values[[r == run for r in found.run]]
        betas = np.zeros((*SHAPE, len(values)), np.float32)
        betas[mask > 0] = values.T
        name = f"CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{run}.nii.gz"
        nibabel.Nifti1Image(betas, np.eye(4)).to_filename(root / name)
    names = [f"{name}.png" for name in found.stimulus]
    (root / "CSI1_imgnames.txt").write_text("\n".join(names) + "\n")
    folder = root / "BOLD5000_Stimuli"
    folder.mkdir()
    for name in dict.fromkeys(found.stimulus):
        pixels = np.round(255 * reader.images([name])[0].transpose(1, 2, 0)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")


def write_vit(folder: Path) -> Path:
    """A tiny vision transformer with random weights."""
    guard_torchaudio()
    import transformers

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.ViTConfig(**size, intermediate_size=24, image_size=32, patch_size=8)
    transformers.ViTModel(config).save_pretrained(folder)
    about = {"size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(239)
def test_one_variable_switches_to_recordings(tmp_path, monkeypatch):
    write_bold5000(tmp_path / "data" / "bold5000_betas")
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NEUROFM_VISION_MODEL", str(write_vit(tmp_path / "vit")))
    done = executed(FOLDER / "encode_fmri.ipynb", tmp_path, monkeypatch, DATA="bold5000_betas")
    judge(done, "encode_fmri_bold5000", silent=False)
    text = printed(done)
    assert "60 voxels" in text and "150 pictures train, 25 test" in text
    scores = [line for line in text.splitlines() if line.startswith("gabor") and "all" in line]
    assert "trained network  all" in text
    assert float(scores[0].split("r / ceiling")[1].split()[0]) > 0.3
