"""Into the network of a run: its sites, what is recorded there, which layer knows the class.

Sites are the entries of the longest list of layers (`nn.ModuleList`, `nn.Sequential`) of the model,
a tokenizer left out; lists of blocks go before lists of single operations, parallel lists of the
same length belong together, and of more than ten entries ten are taken, evenly. A model without
such a list has its top-level children. Entries that no forward pass goes through, or that change no
decision, are left out, and so is what comes before the first weights.

Units of a site are filters where it ends in a convolution, otherwise the last axis; all other axes
are places. A window's features of a site are mean and standard deviation of every unit over places,
those of each channel or source by themselves where there are such: what a readout that pools over
time can use, and the power of filters.

Axes: window place unit.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.batch import Batch
from neurofm.cli.explain.explaining import Held, function_of
from neurofm.figures.style import told_apart
from neurofm.interpret import Activations, randomized_copy
from neurofm.interpret.causal import ablation
from neurofm.interpret.causal.runs import still
from neurofm.interpret.patching import Context, patched
from neurofm.interpret.probing import LayerProbes, probe_layers, signal_baselines
from neurofm.interpret.similarity.layers import LayerSimilarity, compare_layers
from neurofm.live.decoder import RunDecoder
from neurofm.shapes import Bool, Float

MOST = 10  # sites
_PENALTIES = tuple(10.0**k for k in range(-3, 2))
_SILENT = (nn.Dropout, nn.Identity, nn.Flatten)


@dataclass(frozen=True)
class Place:
    """A site.

    Args:
        axis: Of its units: 1 for filters, -1 otherwise.
        label: For figures: what tells its name from the others.
    """

    name: str
    axis: int
    label: str = ""


@dataclass(frozen=True)
class Inside:
    """A run to be looked into.

    Args:
        decoder: Root of the sites' names.
        random: The same with random weights: the control.
        held: Its windows.
        places: Sites in the order of the list.
        ends: Positions of the last entries of lists: several where they are side by side.
        seed: Of all that is drawn.
    """

    decoder: RunDecoder
    random: RunDecoder
    held: Held
    places: tuple[Place, ...]
    ends: tuple[int, ...]
    seed: int

    @property
    def names(self) -> list[str]:
        """Of the sites."""
        return [place.name for place in self.places]

    def deciding(self) -> Place:
        """The last site; of lists side by side, the end whose mean the decision can do with least.

        By how much the margin of the chosen class changes, mean over held-out windows.
        """
        if len(self.ends) == 1:
            return self.places[-1]
        names = [self.names[i] for i in self.ends]
        total = np.zeros(len(names))
        for batch, _ in self.held.batches(self.held.chosen):
            found = ablation(self.decoder, batch, names, run=function_of(self.decoder))
            total += np.abs(found.plain - found.score).sum(1)
        return self.places[self.ends[int(total.argmax())]]


def look_inside(
    decoder: RunDecoder, held: Held, *, sites: Sequence[str] | None, seed: int
) -> Inside:
    """Choose sites, or check those that were asked for.

    Raises:
        ValueError: There is no such site, or no forward pass goes through it.
    """
    batch = held.windows.batch(held.chosen[:2])
    if sites:
        known = dict(decoder.named_modules())
        names = [name if name.split(".")[0] in known else f"model.{name}" for name in sites]
    else:
        names = [f"model.{name}" for name in _entries(decoder.model)]
    places: list[Place] = []
    for name in names:
        try:
            (value, _), *_ = passing(decoder, batch, [name])[name]
            axis = _unit_axis(decoder, name, value, places[-1].axis if places else None)
            by_window(value, axis, len(batch))
            if not sites and not _matters(decoder, batch, name):
                continue
        except (ValueError, RuntimeError):
            if sites:
                raise
            continue
        places.append(Place(name, axis))
    if not places:
        raise ValueError(
            f"{type(decoder.model).__name__} has no list of layers that can be recorded. Name "
            "sites by --sites, such as blocks.0; `neurofm.interpret.sites(model)` lists them."
        )
    some = sorted({round(i) for i in np.linspace(0, len(places) - 1, MOST)})
    kept = places if sites else [places[i] for i in some]
    generator = torch.Generator().manual_seed(seed)
    other = randomized_copy(copy.deepcopy(decoder), generator=generator)
    other.eval().requires_grad_(False)
    names = told_apart([place.name.removeprefix("model.") for place in kept], longest=0)
    kept = [replace(p, label=label) for p, label in zip(kept, names, strict=True)]
    parents = [] if sites else [place.name.rpartition(".")[0] for place in kept]
    # A single list has one end; so have sites that were named.
    ends = tuple(i for i, p in enumerate(parents) if i + 1 == len(kept) or parents[i + 1] != p)
    return Inside(decoder, other, held, tuple(kept), ends or (len(kept) - 1,), seed)


def _matters(decoder: RunDecoder, batch: Batch, name: str) -> bool:
    """Whether the decision changes with another value at a site."""
    run = function_of(decoder)

    def other(value: Tensor, _: Context) -> Tensor:
        return value.flip(value.ndim - 1) * -2 + value.abs().mean()

    with still(decoder):
        plain = run(batch)
        with patched(decoder, {name: other}):
            return not torch.equal(plain, run(batch))


def _entries(model: nn.Module) -> list[str]:
    """Names of the entries of the longest list, or of all of that length side by side."""
    lists: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        outside = not any(part.startswith("tokenizer") for part in name.split("."))
        nested = any(name.startswith(f"{other}." if other else "") for other in lists)
        listed = isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1
        if listed and outside and not nested:
            lists[name] = module
    if not lists:
        return [name for name, _ in model.named_children() if name != "tokenizer"]

    def rank(module: nn.Module) -> tuple[bool, int]:
        blocks = all(any(True for _ in child.children()) for child in module.children())
        return blocks, len(cast(Any, module))

    best = max(map(rank, lists.values()))
    chosen = [name for name, module in lists.items() if rank(module) == best]
    found: list[str] = []
    for name in chosen:
        learned = False
        for child, module in lists[name].named_children():
            learned |= any(True for _ in module.parameters())
            if learned and not isinstance(module, _SILENT):
                found.append(f"{name}.{child}" if name else child)
    return found


def _unit_axis(decoder: nn.Module, name: str, value: Tensor, before: int | None) -> int:
    if value.ndim < 3:
        return -1
    found = before or (1 if value.ndim == 4 else -1)
    for module in decoder.get_submodule(name.partition(":")[0].partition("[")[0]).modules():
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            continue
        conv = nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm | nn.GroupNorm
        if isinstance(module, conv):
            found = 1
        elif any(True for _ in module.parameters(recurse=False)):
            found = -1
    return found


def passing(
    decoder: RunDecoder, batch: Batch, names: Sequence[str]
) -> dict[str, list[tuple[Tensor, Tensor | None]]]:
    """Values of every call at sites, with masks."""
    kept: dict[str, list[tuple[Tensor, Tensor | None]]] = {name: [] for name in names}

    def keep(value: Tensor, context: Context) -> Tensor:
        if not value.is_floating_point():
            raise ValueError(f"{context.site} holds {value.dtype}, not activations.")
        kept[context.site].append((value.detach().clone(), context.mask))
        return value

    with still(decoder), patched(decoder, dict.fromkeys(kept, keep)):
        function_of(decoder)(batch)
    return kept


def by_window(value: Tensor, axis: int, n: int) -> Float[Tensor, "window place unit"]:
    """A site's value with its places in one axis; windows come first in what models fold."""
    moved = value.movedim(axis, -1)
    if value.ndim < 2 or len(moved) % n:
        raise ValueError(f"a value of shape {tuple(value.shape)} for {n} windows cannot be divided")
    return moved.reshape(n, -1, moved.shape[-1])


@dataclass(frozen=True)
class Seen:
    """What was recorded.

    Args:
        features: Site to means and standard deviations of its units.
        wrong: Site to how many values were NaN or infinite.
        largest: Site to the largest magnitude over the median, of each window.
        massive: Site to how many values were massive (see `massive_activations`).
    """

    features: dict[str, Float[np.ndarray, "window feature"]]
    wrong: dict[str, int]
    largest: dict[str, Float[np.ndarray, " window"]]
    massive: dict[str, int]


def recorded(decoder: RunDecoder, inside: Inside, members: list[int]) -> Seen:
    """Pass windows and keep what sections need of every site, batch by batch."""
    from neurofm.interpret.monitoring import massive_activations, not_finite

    features: dict[str, list[np.ndarray]] = {name: [] for name in inside.names}
    largest: dict[str, list[np.ndarray]] = {name: [] for name in inside.names}
    wrong, massive = (dict.fromkeys(inside.names, 0) for _ in range(2))
    for batch, _ in inside.held.batches(members):
        passed = passing(decoder, batch, inside.names)
        for place in inside.places:
            value, mask = passed[place.name][-1]
            x = by_window(value, place.axis, len(batch)).double().cpu().numpy()
            real = _real(mask, value, place.axis, x.shape[:2])
            rows = value.shape[2] if place.axis == 1 else value.shape[1]
            channels = batch.x.shape[1]
            if value.ndim < 4:  # the places of one axis: channel by channel, or time alone
                rows = channels if place.axis == -1 and x.shape[1] % channels == 0 else 1
            features[place.name].append(_pooled(x, real, rows))
            bad = sum(not_finite(x))
            wrong[place.name] += bad
            if bad:
                largest[place.name].append(np.full(len(x), np.nan))
                continue
            found = massive_activations(x, mask=real)
            massive[place.name] += int(found.massive.sum())
            largest[place.name].append(found.top_ratio[:, 0])
    joined = {name: np.concatenate(parts) for name, parts in features.items()}
    return Seen(joined, wrong, {n: np.concatenate(p) for n, p in largest.items()}, massive)


def _real(
    mask: Tensor | None, value: Tensor, axis: int, shape: tuple[int, ...]
) -> Bool[np.ndarray, "window place"] | None:
    if mask is None or axis == 1 or mask.shape != value.shape[:2] or bool(mask.all()):
        return None
    known = mask.cpu().numpy()
    return np.repeat(known.reshape(shape[0], -1), shape[1] * len(known) // mask.numel(), axis=1)


def _pooled(
    x: Float[np.ndarray, "window place unit"], real: np.ndarray | None, rows: int
) -> Float[np.ndarray, "window feature"]:
    n, places, units = x.shape
    if places == 1:
        return x[:, 0]
    rows = rows if places % rows == 0 else 1
    weight = np.ones((n, places)) if real is None else real.astype(float)
    weight = weight.reshape(n, rows, -1, 1)
    weight = weight / np.maximum(weight.sum(2, keepdims=True), 1)
    grid = x.reshape(n, rows, -1, units)
    mean = (grid * weight).sum(2)
    if places == rows:
        return mean.reshape(n, -1)
    square = ((grid - mean[:, :, None]) ** 2 * weight).sum(2)
    return np.concatenate([mean, np.sqrt(square)], axis=1).reshape(n, -1)


@dataclass(frozen=True)
class Layers:
    """Which layer knows the class.

    Args:
        probes: Fitted on training windows, tested on each held-out person.
        similarity: Of the sites, over held-out windows.
        no_signal: Why there are no features of the signal beside them, or nothing.
        n: Windows fitted on, and tested on.
    """

    probes: LayerProbes
    similarity: LayerSimilarity
    no_signal: str
    n: tuple[int, int]


def layers(inside: Inside) -> Layers:
    """Linear probes of every site, beside random weights, the signal and shuffled labels.

    Raises:
        ValueError: A site holds values that are not finite.
    """
    held = inside.held
    train = held.balanced(held.split.train, 2 * len(held.chosen), inside.seed)
    members = [*train, *held.chosen]
    people = np.array([str(held.rows[i].subject) for i in members])
    own, other = (recorded(net, inside, members) for net in (inside.decoder, inside.random))
    fit = np.arange(len(train))
    tested = np.arange(len(train), len(members))
    folds = [(fit, tested[people[tested] == p]) for p in dict.fromkeys(people[tested].tolist())]
    baselines, reason = {}, ""
    if held.same_sensors_of(members):
        batches = [batch for batch, _ in held.batches(members)]
        if all(batch.has_signal for batch in batches):
            x = np.concatenate([batch.x.numpy() for batch in batches])
            baselines = signal_baselines(x, batches[0].sfreq)
        else:
            reason = "The store holds tokens and no signal."
    else:
        reason = "The recordings have different channels."
    with warnings.catch_warnings():
        # All people share their training windows, and so the choice of the penalty.
        warnings.filterwarnings("ignore", message=".*penalty is at the edge")
        probes = probe_layers(
            Activations(own.features, subject=people.tolist()),
            [held.labels[k] for k in held.classes(members).tolist()],
            untrained=Activations(other.features),
            signal=baselines,
            folds=folds,
            penalties=_PENALTIES,
            controls=3,
            seed=inside.seed,
        )
    after = {name: x[tested] for name, x in own.features.items()}
    similarity = compare_layers(after, seed=inside.seed, shuffles=5)
    return Layers(probes, similarity, reason, (len(fit), len(tested)))
