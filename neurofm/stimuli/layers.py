"""What the layers of a network make of stimuli: one row of features per stimulus and site.

Any torch module, or a network of transformers by folder or name. Stimuli that come several times
are shown once; with a cache, what was computed before is read.

Axes: stimulus; token dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret import record
from neurofm.interpret import sites as all_sites
from neurofm.stimuli.cache import FeatureCache, content_hash, weights_hash
from neurofm.stimuli.pretrained import Network, load_network

POOLS = ("mean", "cls", "last", "max", "grid", "flatten", "none")
_GRID = 4


def layer_sites(model: nn.Module) -> list[str]:
    """The blocks of a network, in order: the children of its longest list of equal modules.

    Raises:
        ValueError: It has no such list; name sites yourself.
    """
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1
    ]
    lists = [(n, m) for n, m in lists if len({type(child) for child in m}) == 1]
    if not lists:
        raise ValueError(
            f"layer_sites: {type(model).__name__} has no list of blocks. Name sites: "
            f"{', '.join(all_sites(model)[:8])}, ..."
        )
    name, longest = max(lists, key=lambda item: len(item[1]))
    children = [child for child, _ in longest.named_children()]
    return [f"{name}.{child}" if name else child for child in children]


def layer_features(
    model: Any,
    stimuli: Any,
    sites: Sequence[str] | None = None,
    *,
    pool: str = "mean",
    batch_size: int = 16,
    cache: FeatureCache | Path | str | None = None,
    device: str | torch.device = "cpu",
    prepare: Callable[[Any], Tensor] | None = None,
    kind: str | None = None,
    local_files_only: bool = True,
    sfreq: float | int | None = None,
) -> dict[str, np.ndarray]:
    """Activations of layers, a row per stimulus.

    Args:
        model: A torch module, called with a batch of pictures; or a folder or hub name of
            transformers; or what `load_network` gave.
        stimuli: Pictures (`stimulus 3 height width`, 0 to 1 or bytes), or a list of texts, of
            sounds (one channel each), or for co-attentive networks of mappings with `text`,
            `regions` (`region feature`, of a detector) and for LXMERT `boxes` (`region 4`).
        sites: As for `interpret.record` ("encoder.layer.3", "pooler:output"); all blocks if not
            given.
        pool: Over tokens: "mean" (real ones), "cls" (first), "last" (last real), "max", "flatten",
            "none" (kept: stimulus token dim). Convolutional maps take "mean", "max", "grid" (means
            over 4 x 4 cells), "flatten" and "none".
        cache: A folder; features are found again by stimulus, weights, site and pooling.
        device: Where the network runs; it is moved there.
        prepare: For a torch module: from a batch of pictures to its input. A cache knows functions
            by name: take another name, or folder, for what they do differently.
        kind: Of a network by name; see `load_network`.
        local_files_only: Download nothing.
        sfreq: Of sounds, Hz.

    Returns:
        float32 by site, in the order of `sites`.

    Raises:
        FileNotFoundError: Weights are missing; the message says which file and how to get it.
        ValueError: No such site or pooling, no stimulus, or `device` is a GPU that is absent.
    """
    if pool not in POOLS:
        raise ValueError(f"layer_features: pool {pool!r} is not one of {', '.join(POOLS)}.")
    where = _device(device)
    network = _network(
        model, prepare=prepare, kind=kind, local_files_only=local_files_only, sfreq=sfreq
    )
    items = _items(stimuli)
    names = list(layer_sites(network.model) if sites is None else sites)
    # Of stimuli shown twice the features are computed once.
    hashes = [_stimulus_hash(item) for item in items]
    first = {digest: i for i, digest in reversed(list(enumerate(hashes)))}
    unique = list(first)
    key = ""
    store = FeatureCache(cache) if isinstance(cache, str | Path) else cache
    todo = list(range(len(unique)))
    if store is not None:
        key = content_hash(weights_hash(network.model), network.kind, pool, network.about)
        todo = store.missing(key, names, unique)
    network.model.to(where)
    fresh: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    for batch in _batches(todo, [items[first[d]] for d in unique], batch_size):
        chosen = [items[first[unique[i]]] for i in batch]
        values = _run(network, chosen, names, pool, where)
        digests = [unique[i] for i in batch]
        if store is not None:
            store.put(key, digests, values)
            continue
        for name in names:
            fresh[name].update(zip(digests, values[name], strict=True))
    if store is not None:
        return {name: store.get(key, name, hashes) for name in names}
    return {name: _stacked(name, [fresh[name][d] for d in hashes]) for name in names}


def _network(
    model: Any,
    *,
    prepare: Callable[[Any], Tensor] | None,
    kind: str | None,
    local_files_only: bool,
    sfreq: float | int | None,
) -> Network:
    if isinstance(model, Network):
        return model
    if isinstance(model, str | Path):
        return load_network(model, kind=kind, local_files_only=local_files_only, sfreq=sfreq)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"layer_features: model is a {type(model).__name__}; expected a torch module, or the "
            "folder or name of a network of transformers."
        )

    def ready(chosen: list[Any]) -> tuple[dict[str, Tensor], None]:
        x = torch.as_tensor(np.stack([np.asarray(one) for one in chosen]))
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        x = x.float() if x.is_floating_point() else x
        return {"x": x if prepare is None else prepare(x)}, None

    return Network(model, "tensor", ready, lambda x: model(x), type(model).__name__, _of(prepare))


def _items(stimuli: Any) -> list[Any]:
    if isinstance(stimuli, str) or not hasattr(stimuli, "__len__"):
        raise TypeError(
            f"layer_features: stimuli are a {type(stimuli).__name__}; expected an array or a list."
        )
    if not len(stimuli):
        raise ValueError("layer_features: there is no stimulus.")
    if isinstance(stimuli, Tensor):
        stimuli = stimuli.detach().cpu().numpy()
    return list(stimuli)


def _stimulus_hash(item: Any) -> str:
    if isinstance(item, dict):
        return content_hash(*[part for name in sorted(item) for part in (name, item[name])])
    return content_hash(item if isinstance(item, str) else np.asarray(item))


def _of(prepare: Any) -> str:
    """What stands for a preparation in the key: the name of a function, else all its fields."""
    if prepare is None:
        return ""
    name = getattr(prepare, "__qualname__", None)
    return repr(prepare) if name is None else f"{prepare.__module__}.{name}"


def _batches(todo: Sequence[int], items: Sequence[Any], size: int) -> Iterator[list[int]]:
    """Stimuli of one shape together, so that nothing is padded but texts."""
    if size < 1:
        raise ValueError(f"layer_features: batch_size is {size}, expected at least 1.")
    groups: dict[Any, list[int]] = {}
    for i in todo:
        item = items[i]
        shape = () if isinstance(item, str | dict) else np.shape(item)
        groups.setdefault(shape, []).append(i)
    for members in groups.values():
        for lo in range(0, len(members), size):
            yield members[lo : lo + size]


def _run(
    network: Network, chosen: list[Any], names: list[str], pool: str, device: torch.device
) -> dict[str, np.ndarray]:
    stack = chosen if network.kind in ("text", "sound", "image+text", "tensor") else None
    inputs, mask = network.prepare(np.stack(chosen) if stack is None else stack)
    moved = {name: value.to(device) for name, value in inputs.items()}
    found = record(network.model, names, run=lambda: network.run(**moved))
    real = None if mask is None else mask.numpy()
    result = {}
    modules = dict(network.model.named_modules(remove_duplicate=False))
    for name in names:
        key = name if name in found.data else f"{name}@0"
        value = found[key]
        if len(value) != len(chosen):
            raise ValueError(
                f"layer_features: {name!r} has shape {value.shape} for {len(chosen)} stimuli: the "
                "network folds another axis into the first. Choose another site."
            )
        if isinstance(modules[name.partition(":")[0]], nn.Conv1d) and value.ndim == 3:
            value = value.transpose(0, 2, 1)
        fits = real is not None and value.ndim == 3 and real.shape == value.shape[:2]
        result[name] = _pooled(name, value, real if fits else None, pool).astype(np.float32)
    return result


def _pooled(name: str, value: np.ndarray, mask: np.ndarray | None, pool: str) -> np.ndarray:
    if value.ndim == 2 or pool == "none":
        return value
    if pool == "flatten":
        return value.reshape(len(value), -1)
    if value.ndim == 4:  # stimulus, channel, height, width
        if pool == "mean":
            return value.mean(axis=(2, 3))
        if pool == "max":
            return value.max(axis=(2, 3))
        if pool == "grid":
            cells = nn.functional.adaptive_avg_pool2d(torch.from_numpy(value), _GRID)
            return cells.flatten(1).numpy()
    if value.ndim == 3 and pool in ("mean", "max", "cls", "last"):
        real = np.ones(value.shape[:2], dtype=bool) if mask is None else mask
        if pool == "cls":
            return value[:, 0]
        if pool == "last":
            last = value.shape[1] - 1 - np.argmax(real[:, ::-1], axis=1)
            return value[np.arange(len(value)), last]
        if pool == "max":
            return np.where(real[..., None], value, -np.inf).max(axis=1)
        return (value * real[..., None]).sum(axis=1) / real.sum(axis=1, keepdims=True)
    raise ValueError(
        f"layer_features: pool {pool!r} does not fit {name!r}, whose values have shape "
        f"{value.shape}. Tokens (3 axes) take mean, cls, last, max; maps (4 axes) mean, max, grid."
    )


def _stacked(name: str, rows: list[np.ndarray]) -> np.ndarray:
    shapes = {row.shape for row in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"layer_features: {name!r} has rows of shapes {sorted(shapes)}: stimuli differ in "
            "length. Pool over tokens."
        )
    return np.stack(rows)


def _device(device: str | torch.device) -> torch.device:
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"layer_features: device {str(device)!r}, but no GPU can be used here. Pass "
            'device="cpu".'
        )
    return where
