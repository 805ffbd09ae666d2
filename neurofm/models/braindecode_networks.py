"""What the wrapper of braindecode knows about single networks.

Where the tokens of a pretrained network come from, which names of channels it looks up, what
amplitudes it was trained on, and which tensors of a published file are not part of it. Networks
that are not listed are used by what they call features, or by what enters their last layer.
Axes: batch channel time; batch token dim.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neurofm.shapes import Float

# Given by the wrapper under our own names.
_SIGNAL_ARGUMENTS = {"n_chans", "n_times", "sfreq", "n_outputs", "chs_info", "input_window_seconds"}
# The 10-10 system renamed four electrodes of the 10-20 system.
_RENAMED = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
_SYNONYMS = _RENAMED | {new: old for old, new in _RENAMED.items()}
NORMALIZATIONS = ("percentile", "window", "deep1010")


@dataclass(frozen=True)
class Layout:
    """Tokens of a network.

    Args:
        order: "channel" (all patches of a channel, then the next), "patch" (all channels of a
            patch, then the next), or "mixed" (one token per patch for all channels).
        patch: Samples of a patch, and from one patch to the next.
        site: Module whose output holds the tokens; "" = what the network returns as features.
        time_last: The output of `site` is batch, dim, token, and its first token is a summary.
    """

    order: str
    patch: Callable[[Any], tuple[int, int]]
    site: str = ""
    time_last: bool = False


def _patch_size(network: Any) -> tuple[int, int]:
    return network.patch_size, network.patch_size


def _strides(network: Any) -> tuple[int, int]:
    length, step = 1, 1
    for _, kernel, stride in network.feature_encoder.conv_layers_spec:
        length, step = length + (kernel - 1) * step, step * stride
    return length, step


def _bendr(network: Any) -> tuple[int, int]:
    convolutions = [m for m in network.encoder.modules() if isinstance(m, nn.Conv1d)]
    step = 1
    for layer in convolutions:
        step *= layer.stride[0]
    return step, step


LAYOUTS = {
    "BENDR": Layout("mixed", _bendr, "contextualizer", time_last=True),
    "BIOT": Layout(
        "channel", lambda n: (n.encoder.n_fft, n.encoder.hop_length), "encoder.transformer"
    ),
    "CBraMod": Layout("channel", lambda n: (n._patch_size, n._patch_size)),
    "CodeBrain": Layout("channel", _patch_size),
    "EEGDINO": Layout("channel", lambda n: (n.patch_embedding.patch_size,) * 2),
    "EEGPT": Layout("mixed", lambda n: (n.patch_size, n.patch_stride or n.patch_size)),
    "LUNA": Layout("mixed", _patch_size, "norm"),
    "Labram": Layout("channel", _patch_size),
    "MVPFormer": Layout("patch", lambda n: (n.segment_len, n.segment_len), "ln_f"),
    "REVE": Layout("channel", lambda n: (n.patch_size, n.patch_size - n.patch_overlap)),
    "STEEGFormer": Layout("patch", _patch_size),
    "SignalJEPA": Layout("channel", _strides),
    "SignalJEPA_Contextual": Layout("channel", _strides),
    "ZUNA": Layout("channel", lambda n: (n.encoder.tok_embeddings.in_features,) * 2, "encoder"),
}

# Position of each channel as an argument of `forward`.
PLACES = {"LUNA": "channel_locations", "REVE": "pos"}
# Networks that read `loc` of `chs_info` when they are built.
BUILT_ON_PLACES = ("SignalJEPA", "SignalJEPA_Contextual", "ZUNA")

# Tensors of published files that the network does not have: parts of the pretraining.
LEFTOVERS: Mapping[str, tuple[str, ...]] = {
    "EEGPT": ("predictor.", "reconstructor.", "encoder.", "chan_proj.", "loss_fn."),
    "LUNA": ("decoder_head.", "channel_emb."),
    "SignalJEPA": ("transformer.decoder.",),
}


def near(name: str, known: Sequence[str]) -> str:
    """Names like this one, as a question; "" if there are none."""
    lowered = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.4)
    return f" Did you mean {', '.join(lowered[item] for item in close)}?" if close else ""


def own_arguments(
    network: type[nn.Module], name: str, arguments: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The network's own arguments, after a look at their names.

    Raises:
        ValueError: It has no such argument, or the wrapper gives it.
    """
    given = dict(arguments or {})
    taken = dict(inspect.signature(network).parameters)
    if "kwargs" in taken:  # an interpolating network hands them to the one below it
        taken |= inspect.signature(network.__mro__[1]).parameters
    allowed = set(taken) - _SIGNAL_ARGUMENTS - {"kwargs"}
    for key in given:
        if key in _SIGNAL_ARGUMENTS:
            raise ValueError(
                f"BraindecodeModel: {key!r} belongs to the wrapper: use n_channels, n_times, "
                "sfreq, n_outputs, channels."
            )
        if key not in allowed:
            raise ValueError(
                f"BraindecodeModel: {name} takes no argument {key!r}.{near(key, sorted(allowed))}"
            )
    return given


def vocabulary(name: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Channel names that a network knows, in its spelling; empty if it looks up none."""
    if name == "Labram":
        return tuple(_constant("labram", "LABRAM_CHANNEL_ORDER"))
    if name == "EEGPT" and arguments.get("chan_proj_type") == "none":
        return tuple(_constant("eegpt", "EEGPT_CHANNELS"))
    if name.startswith("SignalJEPA") and arguments.get("channel_embedding") == "pretrain_aligned":
        return tuple(item["ch_name"] for item in _constant("signal_jepa", "_PRETRAIN_CHS_INFO"))
    return ()


def match_names(names: Sequence[str], known: Sequence[str], *, model: str) -> list[str]:
    """Names in the spelling of a network, whatever their case, dots, or the older system.

    A name that the network knows itself is never replaced by its synonym: LaBraM learned T3 and T7
    apart.

    Raises:
        ValueError: It does not know one, or two names mean the same channel.
    """
    spelled = {_folded(name): name for name in known}
    found, unknown = [], []
    for name in names:
        bare = _folded(name)
        key = bare if bare in spelled else _SYNONYMS.get(bare, bare)
        if key in spelled:
            found.append(spelled[key])
        else:
            unknown.append(name)
    if unknown:
        near = difflib.get_close_matches(_folded(unknown[0]), list(spelled), n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(spelled[n] for n in near)}?" if near else ""
        raise ValueError(
            f"{model}: knows {len(known)} channels by name, and not {_some(unknown)}.{hint} Choose "
            "channels it knows with PickChannels, or interpolate them with ToTemplate."
        )
    twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    if twice:
        raise ValueError(
            f"{model}: {_some(twice)} is named more than once (old and new names of an electrode "
            "are the same one). Keep one with PickChannels."
        )
    return found


def normalized(x: Float[Tensor, "batch channel time"], how: str) -> Tensor:
    """Amplitudes as a network was trained on them, from each window alone.

    Args:
        how: "percentile" (each channel over the 95th percentile of its absolute values; BIOT),
            "window" (each channel to mean 0, deviation 1; LUNA), or "deep1010" (the whole window to
            -1 ... 1, and a further channel, 0, for the unknown range of the data set; BENDR).
    """
    if how == "percentile":
        return x / (torch.quantile(x.abs(), 0.95, dim=-1, keepdim=True) + 1e-8)
    if how == "window":
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True).sqrt() + 1e-8)
    low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    x = 2 * (x - low) / (high - low).clamp(min=1e-8) - 1
    return torch.cat([x, torch.zeros_like(x[:, :1])], 1)


def renamed_by_braindecode(network: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as the network's own `load_state_dict` renames it, without loading it."""
    seen: dict[str, Tensor] = {}

    def catch(_: nn.Module, renamed: dict[str, Tensor], *__: Any) -> None:
        seen.update(renamed)
        renamed.clear()

    handle = network.register_load_state_dict_pre_hook(catch)
    try:
        network.load_state_dict(dict(state), strict=False)
    finally:
        handle.remove()
    return seen


@contextmanager
def without_download() -> Iterator[None]:
    """Context in which REVE is built without its bank of positions, which it would download.

    The wrapper gives it the positions itself. An empty module stands in; it holds no tensors.
    """
    module = importlib.import_module("braindecode.models.reve")
    bank = module.RevePositionBank
    module.RevePositionBank = nn.Identity  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.RevePositionBank = bank  # type: ignore[attr-defined]


def _constant(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"braindecode.models.{module}"), name)


def _folded(name: str) -> str:
    return name.upper().replace(".", "").replace(" ", "").removeprefix("EEG")


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
