"""Published networks from a folder on this machine: nothing is downloaded here.

Axes: none.
"""

from __future__ import annotations

from pathlib import Path

import torch

WEIGHTS = (".safetensors", ".bin")


def local_folder(
    path: str | Path, *, config: str, what: str, example: str, below: bool = False
) -> Path:
    """The folder of a saved network, if all of it that can be looked for is there.

    Args:
        path: Where the user says it is.
        config: File that must lie in it, such as `model_index.json`.
        what: In words, for the error.
        example: Repository on the Hugging Face hub that such a network is published in.
        below: Weights lie in folders below it (diffusers) instead of beside the config.

    Raises:
        FileNotFoundError: Naming the file that is missing and the command that fetches it.
    """
    folder = Path(path).expanduser()
    remedy = (
        f"Fetch it once with `huggingface-cli download {example} --local-dir {folder}` (or copy a "
        "folder that `save_pretrained` wrote) and pass that folder."
    )
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected {what}. {remedy}")
    if not (folder / config).is_file():
        raise FileNotFoundError(f"{folder / config} is missing; expected {what}. {remedy}")
    files = folder.rglob("*") if below else folder.glob("*")
    if not any(file.suffix in WEIGHTS for file in files):
        where = f"{folder}{'/*' if below else ''}/*.safetensors"
        raise FileNotFoundError(f"{where}: no weights there, only the description. {remedy}")
    return folder


def check_device(device: str | torch.device) -> torch.device:
    """The device, if this machine has it.

    Raises:
        ValueError: It has not.
    """
    wanted = torch.device(device)
    present = {"cpu": True, "cuda": torch.cuda.is_available()}
    present["mps"] = torch.backends.mps.is_available()
    if not present.get(wanted.type, True):
        raise ValueError(
            f"device {str(device)!r}: this machine has no such accelerator (or torch was built "
            "without it). Use device='cpu': slow, but the result is the same up to rounding."
        )
    return wanted
