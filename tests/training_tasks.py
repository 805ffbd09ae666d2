"""Small networks, tasks and data whose training is compared and killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from neurofm.data import BrainData
from neurofm.models import DuIn, MegGPT, MIRepNet, PatchTransformer, TFMEncoder
from neurofm.models.brainomni import BrainOmni
from neurofm.objectives import (
    ComplementaryCodes,
    Contrastive,
    MaskedCodes,
    MaskedSignal,
    NextCodes,
)
from neurofm.tasks import (
    Decode,
    Full,
    Modes,
    Pretrain,
    Probe,
    Task,
    TrainTokenizer,
    TwoStage,
)
from neurofm.tokenizers import (
    BrainTokenizer,
    DuInEncoder,
    DuInTokenizer,
    EphysTokenizer,
    MIRepNetTokenizer,
    PatchTokenizer,
    TFMTokenizer,
)

SFREQ = 64.0
CHANNELS = ["FC3", "FC4", "C3", "Cz", "C4", "CP3"]


# Data


def make_data(folder: Path, *, mixed: bool = False, **changes: Any) -> BrainData:
    """Simulated people; `mixed`: of two corpora, whose windows have other channels."""
    names = ["first", "second"] if mixed else ["first"]
    for seed, name in enumerate(names):
        reader = {"subjects": 3, "runs": 2, "sfreq": SFREQ, "seed": seed}
        card = {
            "description": name,
            "license": "BSD-3-Clause",
            "citation": "none",
            "modality": "eeg",
            "line_freq": 60,
            "folder": None,
            "reader": {"class_path": "neurofm.io.SyntheticReader", "init_args": reader},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    kept = {"first": CHANNELS, "second": CHANNELS[:4]}
    pick = "neurofm.data.PickChannels"
    arguments: dict[str, Any] = {
        "datasets": [str(folder / f"{name}.yaml") for name in names],
        "preprocess": {
            name: [{"class_path": pick, "init_args": {"names": kept[name]}}] for name in names
        },
        "store": str(folder / "store"),
        "window_s": 4.0,
        "validate": [f"{name}/2" for name in names] if mixed else ["2"],
        "test": [f"{name}/3" for name in names] if mixed else ["3"],
        "batch_size": 8,
    }
    if mixed:
        shares = {"first": 0.5, "second": 0.5}  # four steps in an epoch
        arguments |= {"weights": shares, "epoch_windows": 32, "bucket": "sensors"}
    return BrainData(**arguments | changes)


SHORT = {"batch_size": 4, "epoch_windows": 16}  # of runs that are killed: four steps an epoch
LABELLED = {"labels": ["left_hand", "right_hand"], "window_s": 2.0, "offset_s": 0.5}


# Tasks


def brain_tokenizer(**changes: Any) -> BrainTokenizer:
    small: dict[str, Any] = {
        "window_length": 64,
        "n_filters": 4,
        "ratios": [4, 2, 2],
        "n_dim": 16,
        "n_neuro": 4,
        "codebook_dim": 16,
        "codebook_size": 32,
        "num_quantizers": 2,
        "sfreq": SFREQ,
        "decay": 0.9,
        "start": "spread",
    }
    return BrainTokenizer(**small | changes)


def tfm_tokenizer() -> TFMTokenizer:
    return TFMTokenizer(
        *(16, 12),
        n_bins=50,
        frequency_depth=1,
        temporal_depth=1,
        decoder_depth=1,
        heads=4,
        dropout=0.0,
        commitment="towards_codes",
        start="data",
        restart_below=1.0,
        resample=True,
    )


def du_in_encoder() -> DuInEncoder:
    return DuInEncoder(
        *(6, 6),
        patch=16,
        n_fused=6,
        filters=(8, 4),
        kernels=(5, 3),
        strides=(4, 1),
        depth=1,
        heads=2,
        head_dim=8,
        dropout=0.0,
        sfreq=SFREQ,
        kinds=("eeg",),
    )


def du_in_tokenizer() -> DuInTokenizer:
    return DuInTokenizer(
        du_in_encoder(),
        n_codes=24,
        code_dim=8,
        decoder_depth=1,
        filters=(8, 8),
        kernels=(3, 3),
        strides=(4, 4),
        start="spread",
        decay=0.9,
        count_in_eval=False,
    )


def ephys_tokenizer() -> EphysTokenizer:
    return EphysTokenizer(12, 8, 64, 6, sfreq=SFREQ, anneal=20)


def brain_omni(dropout: float, folder: Path) -> BrainOmni:
    tokenizer = started(brain_tokenizer(), folder)
    return BrainOmni(tokenizer, lm_dim=16, lm_head=4, lm_depth=2, lm_dropout=dropout)


def started(tokenizer: Any, folder: Path) -> Any:
    """Its codebook from one batch, in every process the same."""
    data = make_data(folder)
    data.setup()
    with torch.no_grad():
        tokenizer.eval()(data.windows.batch(range(8)))
    return tokenizer


def patch_transformer(tokenizer: Any = None, **changes: Any) -> PatchTransformer:
    tokenizer = PatchTokenizer(dim=16, patch_s=1.0, sfreq=SFREQ) if tokenizer is None else tokenizer
    return PatchTransformer(tokenizer, **{"dim": 16, "depth": 2, "heads": 4} | changes)


def du_in(folder: Path) -> DuIn:
    return DuIn(du_in_encoder(), started(du_in_tokenizer(), folder), shift=0.0)


def meg_gpt() -> MegGPT:
    return MegGPT(
        ephys_tokenizer(),
        sequence_length=32,
        n_channels=6,
        embedding_dim=16,
        token_embedding_dim=16,
        pos_embedding_dim=16,
        channel_embedding_dim=16,
        n_heads=4,
        model_dim=16,
        n_patches_in=[32, 8],
        patch_len_in=[1, 4],
        n_patches_out=[32, 8],
        patch_len_out=[1, 1],
        l_patched_b=[8, None],
        feed_forward_dim=32,
        dropout=0.0,
        loss_sequence_length=8,
    )


def mirepnet() -> MIRepNet:
    tokenizer = MIRepNetTokenizer(
        *(16,), n_channels=6, sfreq=SFREQ, n_temporal=4, n_spatial=8, kernel=9, pool=25, dropout=0.0
    )
    return MIRepNet(tokenizer, depth=1, heads=4, dropout=0.0, n_classes=2, decoder_depth=1)


# Runs


def equality_task(name: str, folder: Path) -> tuple[Task, BrainData]:
    """Nothing in them is random but masks, noise and code books: dropout is off."""
    fast: dict[str, Any] = {"lr": 1e-3}
    if name == "residual":
        tokenizer = brain_tokenizer(restart_below=1.0)
        return TrainTokenizer(tokenizer, n_channels=4, **fast), make_data(folder)
    if name == "ema":
        return TrainTokenizer(tfm_tokenizer(), **fast), make_data(folder)
    if name == "cosine":
        return TrainTokenizer(du_in_tokenizer(), **fast), make_data(folder, mixed=True)
    if name == "annealed":
        return TrainTokenizer(ephys_tokenizer(), **fast), make_data(folder)
    if name == "masked codes":
        return Pretrain(du_in(folder), objective=MaskedCodes(), **fast), make_data(folder)
    if name == "complementary codes":
        model = TFMEncoder(
            started(tfm_tokenizer(), folder),
            dim=16,
            depth=1,
            heads=4,
            dropout=0.0,
            position_dropout=0.0,
        )
        return Pretrain(model, objective=ComplementaryCodes(), **fast), make_data(folder)
    if name == "next codes":
        return Pretrain(meg_gpt(), objective=NextCodes(), **fast), make_data(folder)
    if name == "masked signal":
        task = Pretrain(patch_transformer(), objective=MaskedSignal(), **fast)
        return task, make_data(folder, mixed=True)
    if name == "contrastive":
        model = patch_transformer(pretraining="views")
        return Pretrain(model, objective=Contrastive(), **fast), make_data(folder)
    if name == "batch norm":
        return Decode(mirepnet(), n_outputs=2, **fast), make_data(folder, **LABELLED)
    model = brain_omni(0.0, folder)
    ways = {"probe": Probe, "modes": Modes, "two stages": lambda: TwoStage(steps=2)}
    task = Decode(model, n_outputs=2, adapt=ways.get(name, Full)(), **fast)
    return task, make_data(folder, **LABELLED)


EQUALITY = (
    *("residual", "ema", "cosine", "annealed"),
    *("masked codes", "complementary codes", "next codes", "masked signal", "contrastive"),
    *("batch norm", "probe", "modes", "two stages", "fine-tuning"),
)


def resume_task(name: str, folder: Path) -> tuple[Task, BrainData]:
    """Dropout, noise and masks on; two corpora, whose windows do not share a batch."""
    data = make_data(folder, mixed=True, **SHORT)
    if name == "tokenizer":
        tokenizer = brain_tokenizer(dropout=0.1, restart_below=1.0)
        return TrainTokenizer(tokenizer, n_channels=3, lr=2e-3), data
    model = brain_omni(0.2, folder)
    if name == "pretrain":
        return Pretrain(model, lr=3e-3), data
    return Decode(model, n_outputs=2, lr=3e-3), make_data(folder, mixed=True, **SHORT, **LABELLED)
