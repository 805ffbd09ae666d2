"""Networks of transformers from a folder or the hub, ready to be shown stimuli.

Nothing is downloaded unless it is asked for, no code of a model's folder is run, and pictures are
prepared by our own code: torchvision is not needed. Which part of a network is run depends on what
is shown: of CLIP the vision tower or the text tower, of Whisper the encoder.

Source: transformers (Wolf et al. 2020).
Axes: stimulus; token dim.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import signal
from torch import Tensor, nn

from neurofm.compat import guard_torchaudio, optional
from neurofm.shapes import Bool
from neurofm.stimuli.preprocessing import Preparation

KINDS = ("image", "text", "sound", "image+text")
_OF_TYPE = {
    **dict.fromkeys(("vit", "deit", "beit", "dinov2", "dinov2_with_registers", "vit_mae"), "image"),
    **dict.fromkeys(("swin", "convnext", "convnextv2", "resnet", "clip_vision_model"), "image"),
    **dict.fromkeys(("gpt2", "bert", "roberta", "distilbert", "llama", "clip_text_model"), "text"),
    **dict.fromkeys(("whisper", "wav2vec2", "hubert", "wavlm"), "sound"),
    **dict.fromkeys(("visual_bert", "lxmert"), "image+text"),
}
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Network:
    """A network with everything needed to show it stimuli.

    Args:
        model: In evaluation mode.
        kind: One of `KINDS`.
        prepare: From a list of stimuli to inputs with equal first axes, and which tokens are real
            (None: all).
        run: Called with the inputs by name.
        name: For messages.
        about: How stimuli are prepared, for the key of a cache.
    """

    model: nn.Module
    kind: str
    prepare: Callable[[Any], tuple[Inputs, Bool[Tensor, "stimulus token"] | None]]
    run: Callable[..., Any]
    name: str
    about: str = ""


def load_network(
    name: str | Path,
    *,
    kind: str | None = None,
    local_files_only: bool = True,
    sfreq: float | int | None = None,
    max_tokens: int | None = None,
) -> Network:
    """A pretrained network of transformers.

    Args:
        name: A folder with `config.json` and weights, or a name on the hub.
        kind: What is shown: "image", "text" (needed for CLIP, which has a tower for each), "sound"
            or "image+text"; by the network's type if not given.
        local_files_only: Look in the folder or the hub's cache alone; False downloads.
        sfreq: Hz, of the sounds that will be shown; they are resampled to the network's rate.
        max_tokens: Texts keep at most so many of their last tokens; the network's limit by default.

    Raises:
        FileNotFoundError: A file is missing; the message names it and how to get it.
        ValueError: A network whose kind is not known.
    """
    guard_torchaudio()
    transformers = optional("transformers")
    folder = _folder(str(name), local_files_only=local_files_only)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    chosen = _kind(config, kind, str(name))
    # One implementation of attention for all: what hooks see does not depend on the device.
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, dtype="float32")
    model = model.eval().requires_grad_(False)
    if chosen == "image":
        run = getattr(model, "get_image_features", None) or model
        preparation = Preparation.read(folder)
        return Network(model, chosen, _pictures(preparation), run, str(name), repr(preparation))
    if chosen == "sound":
        run = model.get_encoder() if config.model_type == "whisper" else model
        return Network(model, chosen, _sounds(folder, config, sfreq), run, str(name), f"{sfreq} Hz")
    tokenizer = _tokenizer(folder)
    limit = _limit(config)
    longest = limit if max_tokens is None else min(max_tokens, limit or max_tokens)
    texts, about = _texts(tokenizer, longest), f"{longest} tokens of {len(tokenizer)}"
    if chosen == "text":
        # Text towers that are pooled at the last token need their mask, others do not mind it.
        run = getattr(model, "get_text_features", None) or model
        return Network(model, chosen, texts, run, str(name), about)
    return Network(model, chosen, _both(texts, config.model_type), model, str(name), about)


def _folder(name: str, *, local_files_only: bool) -> Path:
    """Where the files lie; what is missing is said by name."""
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise FileNotFoundError(
                f"{name}: no such folder of a network. Download one with `hf download NAME "
                f"--local-dir {name}`."
            )
        hub = optional("huggingface_hub")
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "pytorch_model*.bin"]
        try:
            folder = Path(
                hub.snapshot_download(
                    name, local_files_only=local_files_only, allow_patterns=patterns
                )
            )
        except Exception as error:  # the hub's own, and those of the network
            remedy = (
                f"Pass local_files_only=False to download it, or get it with `hf download {name}`."
                if local_files_only
                else "Check the name and the connection, or download it elsewhere and name its "
                "folder."
            )
            raise FileNotFoundError(
                f"{name}: neither a folder nor in the hub's cache "
                f"({type(error).__name__}). {remedy}"
                if local_files_only
                else f"{name}: could not be downloaded ({type(error).__name__}: {error}). {remedy}"
            ) from error
    for wanted in ("config.json", _WEIGHTS):
        options = (wanted,) if isinstance(wanted, str) else wanted
        if not any((folder / option).is_file() for option in options):
            raise FileNotFoundError(
                f"{folder}: no {options[0]}"
                f"{'' if len(options) == 1 else ' (nor ' + ', '.join(options[1:]) + ')'}, which a "
                "network needs. Download the whole folder with `hf download NAME --local-dir "
                f"{folder}`."
            )
    _check_shards(folder)
    return folder


def _check_shards(folder: Path) -> None:
    for index in (folder / name for name in _WEIGHTS if name.endswith("index.json")):
        if index.is_file():
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            missing = sorted(part for part in parts if not (folder / part).is_file())
            if missing:
                raise FileNotFoundError(
                    f"{folder}: {len(missing)} of {len(parts)} files of weights are missing, such "
                    f"as {missing[0]}. Download the whole folder again."
                )


def _kind(config: Any, kind: str | None, name: str) -> str:
    if kind is not None and kind not in KINDS:
        raise ValueError(f"{name}: kind {kind!r} is not one of {', '.join(KINDS)}.")
    known = _OF_TYPE.get(config.model_type)
    if hasattr(config, "vision_config") and hasattr(config, "text_config"):
        if kind not in ("image", "text"):
            raise ValueError(
                f"{name}: {config.model_type} has a tower for pictures and one for texts. Pass "
                'kind="image" or kind="text".'
            )
        return kind
    chosen = kind or known
    if chosen is None:
        raise ValueError(
            f"{name}: what {config.model_type!r} is shown is not known. Pass kind: "
            f"{', '.join(KINDS)}."
        )
    if known is not None and chosen != known:
        raise ValueError(f"{name}: {config.model_type} is shown {known}, not {chosen}.")
    return chosen


def _pictures(preparation: Preparation) -> Callable[[Any], tuple[Inputs, None]]:
    def prepare(images: Any) -> tuple[Inputs, None]:
        return {"pixel_values": preparation(images)}, None

    return prepare


def _tokenizer(folder: Path) -> Any:
    transformers = optional("transformers")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever it stumbles on
        raise FileNotFoundError(
            f"{folder}: no tokenizer that can be read (tokenizer.json, or vocab files; "
            f"{type(error).__name__}). Download the whole folder of the network."
        ) from error


def _limit(config: Any) -> int | None:
    inner = getattr(config, "text_config", config)
    limit = getattr(inner, "max_position_embeddings", None) or getattr(inner, "n_positions", None)
    # RoBERTa's positions begin after the padding's.
    return limit - 2 if limit and config.model_type in ("roberta",) else limit


def _texts(
    tokenizer: Any, longest: int | None
) -> Callable[[Sequence[str]], tuple[Inputs, Bool[Tensor, "stimulus token"]]]:
    special = int(tokenizer.pad_token_id or 0)

    def prepare(texts: Sequence[str]) -> tuple[Inputs, Tensor]:
        rows = [tokenizer(str(text))["input_ids"] for text in texts]
        empty = [i for i, row in enumerate(rows) if not row]
        if empty:
            raise ValueError(
                f"layer_features: text {empty[0]} ({texts[empty[0]]!r}) has no token. Leave out "
                "empty texts."
            )
        rows = [row if longest is None else row[-longest:] for row in rows]
        ids = torch.full((len(rows), max(map(len, rows))), special)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        return {"input_ids": ids, "attention_mask": mask.long()}, mask

    return prepare


def _both(texts: Callable[..., Any], model_type: str) -> Callable[[Any], tuple[Inputs, Tensor]]:
    """Texts with regions of pictures, as co-attentive networks want them."""

    def prepare(stimuli: Any) -> tuple[Inputs, Tensor]:
        inputs, mask = texts([one["text"] for one in stimuli])
        regions = torch.as_tensor(np.stack([one["regions"] for one in stimuli])).float()
        if model_type == "lxmert":
            boxes = torch.as_tensor(np.stack([one["boxes"] for one in stimuli])).float()
            return {**inputs, "visual_feats": regions, "visual_pos": boxes}, mask
        more = torch.ones(regions.shape[:2], dtype=torch.bool)
        visual = {"visual_embeds": regions, "visual_attention_mask": more.long()}
        return {**inputs, **visual}, torch.cat([mask, more], dim=1)

    return prepare


def _sounds(
    folder: Path, config: Any, sfreq: float | int | None
) -> Callable[[Any], tuple[Inputs, Tensor | None]]:
    path = folder / "preprocessor_config.json"
    about: Mapping[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    rate = int(about.get("sampling_rate", 16000))
    extractor = None
    if config.model_type == "whisper":
        transformers = optional("transformers")
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder}: no {path.name}, which says how sounds are prepared. Download the whole "
                "folder of the network."
            )
        extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)

    def prepare(sounds: Any) -> tuple[Inputs, Tensor | None]:
        heard = [_resampled(np.asarray(sound), sfreq, rate) for sound in sounds]
        if extractor is not None:
            longest = extractor.n_samples
            if max(map(len, heard)) > longest:
                raise ValueError(
                    f"layer_features: a sound of {max(map(len, heard)) / rate:.1f} s; Whisper "
                    f"hears {longest / rate:g} s at once. Cut it into pieces."
                )
            features = extractor(heard, sampling_rate=rate, return_tensors="pt").input_features
            tokens = features.shape[-1] // 2
            share = torch.tensor([len(sound) / longest for sound in heard])
            mask = torch.arange(tokens) < torch.ceil(share * tokens)[:, None]
            return {"input_features": features.float()}, mask
        if len({len(sound) for sound in heard}) > 1:
            raise ValueError("layer_features: sounds of one batch differ in length.")
        x = torch.tensor(np.stack(heard), dtype=torch.float32)
        if about.get("do_normalize", True):
            x = (x - x.mean(dim=1, keepdim=True)) / (x.var(dim=1, keepdim=True) + 1e-7).sqrt()
        return {"input_values": x}, None

    return prepare


def _resampled(sound: np.ndarray, sfreq: float | int | None, rate: int) -> np.ndarray:
    if sfreq is None:
        raise ValueError(
            f"layer_features: pass sfreq, the rate of the sounds; the network hears {rate} Hz."
        )
    if sound.ndim != 1:
        raise ValueError(
            f"layer_features: a sound of shape {sound.shape}; expected one channel. Average them."
        )
    if round(sfreq) == rate:
        return sound.astype(np.float32)
    divisor = int(np.gcd(round(sfreq), rate))
    up, down = rate // divisor, round(sfreq) // divisor
    return signal.resample_poly(sound.astype(np.float64), up, down).astype(np.float32)
