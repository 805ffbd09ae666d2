"""Guards for optional packages whose compiled parts may not load beside a CPU build of torch.

PyPI's torchaudio is built against CUDA libraries; braindecode requires it, though the parts it uses
are pure torch. transformers, diffusers and peft break on the same packages: call the guard first.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from typing import Any

EXTRAS = {
    "huggingface_hub": "hub",
    "transformers": "stimuli",
    "diffusers": "generate",
    "himalaya": "encoding",
    "peft": "peft",
    "nilearn": "fmri",
    "nbclient": "notebooks",
    "distributed": "dask",
    "fsspec": "remote",
    "aiohttp": "remote",
    "h5py": "spikes",
    "moabb": "fetch",
    "openneuro": "fetch",
    "flwr": "federated",
    "grpc": "federated",
    "mne_lsl": "stream",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
}


@functools.cache
def guard_torchaudio() -> str:
    """Make `import torchaudio` succeed if torchaudio is installed at all.

    Returns:
        "ok" if it loads by itself, "stubbed" if its compiled extension was replaced by the
        pure-torch fallback, "absent" if it is not installed.
    """
    try:
        importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        if error.name == "torchaudio":
            return "absent"
        raise
    except OSError:
        for name in [n for n in sys.modules if n == "torchaudio" or n.startswith("torchaudio.")]:
            del sys.modules[name]
        stub = types.ModuleType("torchaudio._extension")
        stub._IS_TORCHAUDIO_EXT_AVAILABLE = False  # type: ignore[attr-defined]
        stub._IS_ALIGN_AVAILABLE = False  # type: ignore[attr-defined]
        stub.fail_if_no_align = lambda function: function  # type: ignore[attr-defined]
        sys.modules["torchaudio._extension"] = stub
        importlib.import_module("torchaudio")
        return "stubbed"
    return "ok"


def optional(module: str) -> Any:
    """Import a package of an optional extra.

    Raises:
        ImportError: It is not installed; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = EXTRAS.get(module.split(".", 1)[0])
        install = f"neurofm[{extra}]" if extra else module.split(".", 1)[0]
        raise ImportError(
            f"This needs the package {module!r}: pip install '{install}' ({error})."
        ) from error
