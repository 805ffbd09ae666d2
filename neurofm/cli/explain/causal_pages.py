"""Pages on what the decision turns on: patching of sites, and latents of a dictionary."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from neurofm.cli.explain.dictionary import Sparse, sparse
from neurofm.cli.explain.inside import Inside
from neurofm.cli.explain.inside_pages import percent
from neurofm.cli.explain.intervening import Effects, Patched, patching
from neurofm.figures import plot_bars, plot_matrix
from neurofm.report import Report
from neurofm.types import Result

_SMALL = 0.01  # share of a difference that is worth a line


def patching_page(report: Report, inside: Inside) -> None:
    """What sites and their parts carry from trial to trial."""
    found = patching(inside)
    inner = found.of("inside") if len(found.of("inside")) else found.of("site")
    top = inner[int(np.argmax(found.denoise.value[inner]))]
    part = found.of("part")
    line = (
        f"Patching: {_short(inside, found.names[top])} carries {_shared(found.denoise, top)} of "
        f"the difference between classes (noising {_shared(found.noise, top)}; another trial of "
        f"the same class {_shared(found.control, top)}; {found.n} pairs)"
    )
    if len(part):
        strongest = part[int(np.argmax(found.denoise.value[part]))]
        line += (
            f"; of all parts most: {_short(inside, found.names[strongest])}, "
            f"{_shared(found.denoise, strongest)}, a part at random "
            f"{percent(found.denoise.value[part].mean())}"
        )
    report.add_lines([line + "."])
    figures = [
        (
            _bars(inside, found, found.of("site"), "Whole layers"),
            "1 moves the whole difference. A layer that everything passes through has 1 by "
            "construction; less means a way around it.",
        )
    ]
    if len(found.of("inside")):
        figures.append(
            (
                _bars(inside, found, found.of("inside"), "What layers add"),
                "The same for what is inside layers, whose output others can make up for.",
            )
        )
    if len(part):
        figures.append(
            (
                _parts(inside, found),
                f"Outlined: the interval lies above that of the control, and above {_SMALL:g}.",
            )
        )
    report.add_section(
        "What the decision turns on",
        text=f"Activation patching: {found.n} pairs of trials of the same person, of two classes "
        "and both decoded rightly. Denoising puts the value of one trial into the run of the "
        "other: is the place enough? Noising does the reverse: is it needed? The control puts in "
        "another trial of the class that is already there, which should move nothing. Effects are "
        "shares of the difference between both trials' logits, with 95 % intervals over pairs. A "
        "run that is given its own values changes its logits by at most "
        f"{found.unchanged:.1g}.\n\n{_estimates(found)}",
        figures=figures,
        results=[
            Result(
                name=f"{_short(inside, found.names[i])}, denoising",
                value=_rounded(found.denoise.value[i]),
                unit="share",
                low=_rounded(found.denoise.low[i]),
                high=_rounded(found.denoise.high[i]),
                n=found.n,
                chance=_rounded(found.control.value[i]),
            )
            for i in [*found.of("site"), *found.of("inside")]
        ],
    )


def _rounded(value: float) -> float:
    return round(float(value), 3) + 0.0


def _short(inside: Inside, name: str) -> str:
    for place in inside.places:
        if name.startswith(place.name):
            return place.label + name[len(place.name) :]
    return name


def _shared(effects: Effects, i: int) -> str:
    low, high = effects.low[i], effects.high[i]
    return f"{percent(effects.value[i])} [{round(100 * low)}, {round(100 * high)}]"


def _estimates(found: Patched) -> str:
    told = []
    for kind, r in found.correlation.items():
        name = "attribution patching (gradients)" if kind == "plain" else "RelP (relevance)"
        if isinstance(r, str):
            told.append(f"{name}: not possible here, {r}")
        else:
            doubt = "" if r[0] > 0.5 else ", do not trust it here"
            told.append(f"{name}: r = {r[0]:.2f} [{r[1]:.2f}, {r[2]:.2f}]{doubt}")
    return (
        "Cheap first-order estimates, correlated with these effects over places and pairs "
        f"(chance 0): {'; '.join(told)}."
    )


def _bars(inside: Inside, found: Patched, which: np.ndarray, title: str) -> Figure:
    series = {
        "denoising": found.denoise,
        "noising": found.noise,
        "control: same class": found.control,
    }
    names = [_short(inside, found.names[i]).replace(".", " ") for i in which]
    return plot_bars(
        {k: dict(zip(names, e.value[which], strict=True)) for k, e in series.items()},
        title=f"{title}, {found.n} pairs of trials",
        unit="share of the difference",
        intervals={
            k: {n: (e.low[i], e.high[i]) for n, i in zip(names, which, strict=True)}
            for k, e in series.items()
        },
    )


def _parts(inside: Inside, found: Patched) -> Figure:
    which = found.of("part")
    rows: dict[str, list[int]] = {}
    for i in which:
        rows.setdefault(_short(inside, found.names[i].partition("[")[0]), []).append(int(i))
    longest = max(map(len, rows.values()))
    table = np.full((len(rows), longest), np.nan)
    sure = np.zeros(table.shape, dtype=bool)
    for r, members in enumerate(rows.values()):
        table[r, : len(members)] = found.denoise.value[members]
        limit = np.maximum(found.control.high[members], _SMALL)
        sure[r, : len(members)] = found.denoise.low[members] > limit
    timed = all(place.axis == 1 for place in inside.places)
    return plot_matrix(
        table.round(3) + 0.0,
        title=f"Parts of layers, {found.n} pairs of trials",
        unit="share of the difference",
        rows=list(rows),
        columns=[f"{k + 1}/{longest}" for k in range(longest)],
        xlabel="part of the window" if timed else "part of the tokens, or of time after filters",
        signed=True,
        outlined=sure,
        square=False,
    )


def sparse_page(report: Report, inside: Inside) -> None:
    """A dictionary of the last site and the latents that matter most."""
    found = sparse(inside)
    effects = found.effects
    size = np.abs(effects.effects.mean(1))
    top = int(size.argmax())
    own = f"latent {effects.latents[top]}"
    low, high = effects.interval(top)
    control = np.abs(effects.control_effects.mean(1))
    line = (
        f"Sparse: {found.n[2]} latents at {found.site} leave "
        f"{percent(found.quality.unexplained)} of the variance unexplained and keep "
        f"{percent(found.recovered.recovered)} of the decision (means as the baseline: "
        f"{percent(found.recovered.from_mean)}); without {own} the chosen class loses "
        f"{-effects.effects.mean(1)[top]:.3f} of its margin"
        + ("" if np.isnan(low) else f" [{-high:.3f}, {-low:.3f}]")
        + f" (latents as strong: at most {control.max(initial=0):.3f})."
    )
    verdict = "" if found.explains else " The latents explain nothing here: " + _why(found)
    report.add_lines([line + verdict])
    figures = [
        (
            found.recovered.plot(),
            "How far decisions on held-out windows are from the whole network's own (divergence, "
            "nats): with the dictionary in the site, with the mean of every place there, with "
            "zeros. Intervals over people.",
        ),
        (
            effects.plot(),
            "Change of the chosen class's margin (logit) when one latent is silenced, the rest of "
            "the site left as it is. Controls: other latents that speak as strongly.",
        ),
        (found.quality.plot(), f"On held-out windows. {_sentence(found)}"),
    ]
    figures += [
        (
            card.plot(),
            f"Latent {card.latent}: the windows that excite it most, cut into seconds, against the "
            "same people's other windows. It tells what goes along with a latent.",
        )
        for card in found.cards
    ]
    report.add_section(
        "A dictionary of the last layer",
        text=f"A sparse autoencoder at {found.site}: {found.n[2]} latents for {found.n[1]} units, "
        f"{found.n[3]} of them at a time, trained on {found.n[0]} values of training windows. "
        f"On held-out ones (loss: divergence from the whole network's decision, nats): "
        f"{found.recovered}. The latents with the largest first-order "
        "effect on the decision are silenced one by one. It is small and trained for seconds: "
        "read it as a sketch. " + verdict.strip(),
        figures=figures,
        table=[
            {
                "latent": int(latent),
                "change of margin without it (logit)": float(effects.effects[i].mean()),
                "controls with as large an effect (share)": float(effects.rank[i]),
            }
            for i, latent in enumerate(effects.latents)
        ],
    )


def _why(found: Sparse) -> str:
    if not found.recovered.from_mean > 0.5:
        return "with the dictionary in place less than half of the decision is kept."
    return "no latent does more than others that speak as strongly."


def _sentence(found: Sparse) -> str:
    quality = found.quality
    return (
        f"{percent(quality.unexplained)} unexplained"
        + ("" if np.isnan(quality.low) else f" [{quality.low:.2f}, {quality.high:.2f}]")
        + f", {percent(quality.dead)} never speak."
    )
