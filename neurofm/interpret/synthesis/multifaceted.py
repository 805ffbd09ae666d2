"""The facets of a unit: one signal for each kind of input that drives it.

The real windows that drive an objective most are grouped by what the network makes of them; each
group is averaged into a start from which the objective is climbed. Waveforms of a group are aligned
before they are averaged, as they would cancel otherwise: by shifts to the strongest window, or by
averaging amplitude spectra and keeping the strongest window's phases.

Source: Nguyen et al. 2016 (multifaceted feature visualisation, arXiv 1602.03616): mean starts,
largest clusters first. Numbers are this project's.
Axes: facet channel time; window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.batch import Batch
from neurofm.interpret.attribution.evidence import with_inputs
from neurofm.interpret.causal.runs import array_of, still
from neurofm.interpret.synthesis.maximise import maximise, run_of
from neurofm.interpret.synthesis.objectives import Objective, Run, see, unit_last
from neurofm.interpret.synthesis.regularisers import Regulariser
from neurofm.interpret.synthesis.result import Synthesis
from neurofm.interpret.synthesis.signals import Prior, windows_of
from neurofm.shapes import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Align = Literal["shift", "spectrum", "none"]
ROWS = 64


@dataclass(frozen=True)
class Facets:
    """Kinds of input that drive a unit, the largest group first.

    Args:
        facets: A synthesis each, started from its group.
        members: Rows of the real windows in each group.
        starts: What each search started from.
        dropped: Windows in groups that were too small.
    """

    facets: tuple[Synthesis, ...]
    members: tuple[Int[np.ndarray, " _"], ...]
    starts: Float[np.ndarray, "facet channel time"]
    dropped: int

    @property
    def signals(self) -> Float[np.ndarray, "facet channel time"]:
        """One per facet."""
        return np.stack([facet.signals[0] for facet in self.facets])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Windows in each group."""
        return tuple(map(len, self.members))

    def __str__(self) -> str:
        lines = [f"{n} windows: {facet}" for n, facet in zip(self.sizes, self.facets, strict=True)]
        return "\n".join([*lines, f"{self.dropped} windows in groups that were too small"])

    def plot(self) -> Figure:
        """Spectrum and channels of each facet beside the start."""
        from neurofm.interpret.synthesis.drawings import plot_facets

        return plot_facets(self)


def multifaceted(
    model: nn.Module,
    objective: Objective,
    prior: Prior,
    windows: Any,
    *,
    code_site: str,
    code_axis: int | None = None,
    run: Run | None = None,
    sfreq: float | int | None = None,
    n_top: int = 1000,
    n_facets: int = 10,
    n_nearest: int = 15,
    fewest: int = 5,
    n_components: int = 50,
    tsne: bool = False,
    align: Align = "shift",
    steps: int = 256,
    lr: float | int = 0.05,
    regularisers: Sequence[tuple[float | int, Regulariser]] = (),
    centred: bool = False,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Facets:
    """Synthesise each facet of an objective.

    Args:
        windows: Real ones, a Batch or `window channel time`; windows of one class to see a class.
        code_site: Where similar windows are alike: a late layer.
        code_axis: Of its units, averaged over places (moments, tokens); None compares the values
            as they are.
        n_top: Windows that drive the objective most, no more than half of them.
        n_facets: Groups of k-means.
        n_nearest: Windows nearest to the middle of a group that are averaged.
        fewest: Smaller groups are dropped.
        n_components: Principal components of the codes that are grouped.
        tsne: Group a t-SNE map (perplexity 30) of the components instead.
        align: "shift", "spectrum" or "none", see the module's first lines.
        steps: Few keep near the start. A unit that adds up its facets gets all of them at once
            from a long search, which is then the answer.

    Raises:
        ValueError: No group is large enough.
    """
    generator = generator or torch.Generator().manual_seed(seed)
    run = run_of(model) if run is None else run
    x = windows_of(windows)
    score, codes = _seen(model, run, objective, windows, x, code_site, code_axis)
    top = np.argsort(-score, kind="stable")[: max(min(n_top, len(x) // 2), fewest)]
    places = _embedded(codes[top], n_components, tsne)
    groups, dropped = _groups(places, n_facets, fewest)
    if not groups:
        raise ValueError(
            f"multifaceted: no group of {fewest} among {len(top)} windows in {n_facets} groups; "
            "ask for fewer groups or give more windows."
        )
    starts = []
    for group in groups:
        middle = places[group].mean(0)
        nearest = group[np.argsort(np.linalg.norm(places[group] - middle, axis=1))[:n_nearest]]
        nearest = nearest[np.argsort(nearest)]  # the strongest first
        starts.append(_average(x[torch.from_numpy(top[nearest]).to(x.device)], align))
    found = [
        maximise(
            model,
            objective,
            prior,
            windows=windows,
            run=run,
            sfreq=sfreq,
            steps=steps,
            lr=lr,
            start=start[None],
            regularisers=regularisers,
            centred=centred,
            control="none",
            generator=generator,
        )
        for start in starts
    ]
    members = tuple(top[group] for group in groups)
    return Facets(tuple(found), members, torch.stack(starts).cpu().numpy(), dropped)


def _seen(
    model: nn.Module,
    run: Run,
    objective: Objective,
    windows: Any,
    x: Tensor,
    site: str,
    axis: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The objective, and the values at the site, of all windows."""
    scores, codes = [], []
    wanted = tuple(dict.fromkeys((*objective.sites, site)))
    with still(model):
        for start in range(0, len(x), ROWS):
            here = slice(start, start + ROWS)
            part: Any = x[here]
            if isinstance(windows, Batch):
                cut: Batch = windows._map(lambda tensor, here=here: tensor[here])
                part = with_inputs(cut, cut.x)
            seen = see(model, run, wanted, part, len(x[here]))
            scores.append(array_of(objective.score(seen)))
            value = seen.at(site)[0][0]
            value = value.flatten(1) if axis is None else unit_last(value, axis).mean(1)
            codes.append(array_of(value))
    return np.concatenate(scores), np.concatenate(codes)


def _embedded(codes: np.ndarray, n_components: int, tsne: bool) -> np.ndarray:
    centred = codes - codes.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    places = (u * s)[:, :n_components]
    if not tsne:
        return np.asarray(places)
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(places) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=perplexity, random_state=0).fit_transform(places))


def _groups(places: np.ndarray, n_facets: int, fewest: int) -> tuple[list[np.ndarray], int]:
    """Rows of each group that is large enough, the largest first."""
    from sklearn.cluster import KMeans

    n = min(n_facets, len(places))
    label = KMeans(n, n_init=10, random_state=0).fit_predict(places)
    groups = [np.flatnonzero(label == k) for k in range(n)]
    kept = sorted((g for g in groups if len(g) >= fewest), key=len, reverse=True)
    return kept, len(places) - sum(map(len, kept))


def _average(x: Tensor, align: Align) -> Float[Tensor, "channel time"]:
    """Mean of windows, aligned to the first."""
    if align == "none":
        return x.mean(0)
    centred = x - x.mean(-1, keepdim=True)
    transform = torch.fft.rfft(centred)
    n = x.shape[-1]
    if align == "spectrum":
        phase = torch.polar(torch.ones_like(transform[0].abs()), transform[0].angle())
        return torch.fft.irfft(transform.abs().square().mean(0).sqrt() * phase, n=n)
    if align != "shift":
        raise ValueError(f"multifaceted: align={align!r} is not 'shift', 'spectrum' or 'none'.")
    agreement = torch.fft.irfft((transform[:1] * transform.conj()).sum(1), n=n)
    shift = agreement.argmax(1)
    at = (torch.arange(n, device=x.device) - shift[:, None]) % n
    moved = centred.gather(2, at[:, None].expand_as(centred))
    return moved.mean(0)
