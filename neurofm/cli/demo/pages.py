"""Pages of the demo's report: figures, tables and plain words about each step."""

from __future__ import annotations

from collections import Counter

import numpy as np
from torch import Tensor

from neurofm.batch import Tokens
from neurofm.cli.demo.decoding import Decoded
from neurofm.cli.demo.explaining import Explained
from neurofm.cli.demo.source import Source
from neurofm.cli.demo.training import Trained
from neurofm.data import Windows
from neurofm.evaluate import compare, per_subject, summarize
from neurofm.metrics import confusion
from neurofm.report import (
    Report,
    plot_band_error,
    plot_code_usage,
    plot_confusion,
    plot_curves,
    plot_layer_scores,
    plot_rdm,
    plot_reconstruction,
    plot_scores,
    plot_topographies,
)
from neurofm.types import Result

SHOWN = ("C3", "Cz", "C4", "Oz")
_CLASSES = {"left_hand": "left hand", "right_hand": "right hand"}


def add_data(report: Report, windows: Windows, source: Source) -> None:
    """What was read."""
    rows = []
    used = {row.recording for row in windows.rows}
    for entry in windows.entries:
        if entry.recording.id not in used:
            continue
        counts = Counter(event.label for event in entry.events)
        rows.append(
            {
                "recording": entry.recording.id,
                "channels": entry.n_channels,
                "with position": int(entry.sensors.has_position.sum()),
                "Hz": entry.sfreq,
                "minutes": round(entry.duration / 60, 2),
                "events": ", ".join(f"{label} {n}" for label, n in sorted(counts.items())),
            }
        )
    text = (
        f"Tokenizer and model are pretrained on people {', '.join(source.pretrain)} without their "
        f"labels; people {', '.join(source.evaluate)} are decoded, each time leaving one run out. "
        "Nobody is on both sides. Recordings below are those of pretraining, as prepared."
    )
    report.add_section("Data", text=text, table=rows)


def add_tokenizer(
    report: Report,
    trained: Trained,
    windows: Windows,
    target: Tensor,
    made: Tensor,
    errors: dict[str, dict[str, float]],
    tokens: Tokens,
) -> None:
    """Reconstruction over the signal, error by band, use of the code book."""
    names = windows.entries[0].sensors.names
    chosen = [names.index(name) for name in SHOWN if name in names]
    curves = trained.metrics.curves
    figures = [
        (
            plot_reconstruction(
                target[0, chosen, 0].numpy(),
                made[0, chosen, 0].numpy(),
                windows.sfreq,
                names=[names[i] for i in chosen],
                title="Two seconds of a person not trained on",
                unit="z",
            ),
            "Signal and what the decoder makes of its codes. Each window of each channel is "
            "standardised, as in the training target.",
        ),
        (
            plot_band_error(
                {"reconstruction": {band: 1 - e["explained"] for band, e in errors.items()}},
                title="Reconstruction error by frequency band",
            ),
            "Power of the error over the power of the signal. 1 is what silence would score.",
        ),
        (
            plot_curves(
                {
                    "training": curves["train/pcc_step"],
                    "validation": curves["validate/pcc"],
                },
                title="Learning to reconstruct",
                ylabel="correlation with the signal",
            ),
            "Mean correlation of signal and reconstruction over channels and windows.",
        ),
    ]
    if tokens.codes is not None:
        size = int(tokens.codes.max()) + 1
        counts = np.stack(
            [np.bincount(level.flatten(), minlength=size) for level in tokens.codes.unbind(-1)]
        )
        figures.append(
            (
                plot_code_usage(counts, title="How often each code is used"),
                "Codes of each level of the residual quantizer, most frequent first.",
            )
        )
    text = (
        "BrainTokenizer turns any set of sensors into sixteen latent sources, sixteen steps each "
        "two seconds, four codes per step. It was trained here from random weights, at a small "
        "size, without the spectral terms of the published loss: what a short training can use."
    )
    report.add_section("Tokenizer", text=text, figures=figures)


def add_pretraining(report: Report, trained: Trained) -> None:
    """Loss over steps beside the entropy of the codes."""
    curves = trained.metrics.curves
    entropy = trained.last("validate/unigram_entropy")
    figure = plot_curves(
        {"training": curves["train/loss_step"], "validation": curves["validate/loss"]},
        title="Predicting masked codes",
        ylabel="cross-entropy (nats per code)",
        references={"unigram entropy of the codes": entropy},
    )
    text = (
        "Half of the tokens are hidden and their codes predicted from the others. Knowing only how "
        "often each code occurs gives the unigram entropy; below that line the model uses context."
    )
    caption = "Loss over hidden tokens, mean over the levels of the quantizer."
    report.add_section("Masked pretraining", text=text, figures=[(figure, caption)])


def decoding_results(decoded: Decoded) -> tuple[list[Result], str]:
    """Accuracy of every method, and a sentence on how ours compares with the best baseline."""
    results = [summarize(scores, "accuracy") for scores in decoded.scores]
    ours = max((0, 1), key=lambda i: results[i].value)
    best = max(range(2, len(results)), key=lambda i: results[i].value)
    difference = compare([decoded.scores[ours]], decoded.scores[best], "accuracy")[0]
    points = 100 * (results[ours].value - results[best].value)
    words = "wins over" if points > 0 else "ties with" if points == 0 else "loses to"
    p = difference.detail.get("p")
    sure = f" (paired over people, p = {p:.2f})" if p is not None and np.isfinite(p) else ""
    verdict = (
        f"{results[ours].name} {words} the best baseline, {results[best].name}, by "
        f"{abs(points):.1f} points{sure}"
    )
    return results, verdict


def add_decoding(report: Report, decoded: Decoded, results: list[Result], verdict: str) -> None:
    """Methods side by side, and the confusion of the fine-tuned model."""
    tuned = decoded.scores[0]
    points = {s.name: list(per_subject(s, "accuracy").values()) for s in decoded.scores}
    figures = [
        (
            plot_scores(
                results,
                title=f"Left or right hand, one run left out ({results[0].n} people)",
                xlabel="accuracy",
                points=points,
            ),
            "Mean over people with 95 % bootstrap interval; one dot per person.",
        ),
        (
            plot_confusion(
                confusion(tuned.y_true, tuned.y_pred),
                list(_CLASSES.values()),
                title="BrainOmni, fine-tuned",
            ),
            "Held-out trials of all people.",
        ),
    ]
    text = (
        f"{verdict}.\n\nEach person has three runs; every method is tested on the run left out. "
        "CSP and tangent space (8-30 Hz) and the linear probe are fitted for each person alone; "
        "BrainOmni is fine-tuned, and EEGNet trained, on the other runs of all of them together. "
        "The settings of the small BrainOmni and of EEGNet were chosen by hand while trying them "
        "on these corpora; nothing is chosen by looking at the left-out run while the demo runs."
        "\n\nEach run has 8 trials of one class and 7 of the other, so the run left out tends to "
        "have the majority that its training runs lack: a method that learned nothing lands near "
        "47 %, a little below chance."
    )
    report.add_section("Decoding", text=text, figures=figures, results=results)


def explanation_lines(explained: Explained, source: Source) -> list[str]:
    """The explanation in one or two lines."""
    side, band = explained.strongest
    lines = [
        f"explanation   the decision moves most when {band} is removed over the {side} motor "
        f"cortex; contralateral mu and beta {explained.contralateral:+.2f} logits"
    ]
    if source.simulated:
        found = explained.contralateral > 0 and band in ("mu", "beta")
        lines.append(
            "truth         planted: mu and beta fade opposite to the hand; "
            + ("found" if found else "NOT found by this model")
        )
    return lines


def add_explanation(report: Report, explained: Explained, source: Source) -> None:
    """Maps, interventions and similarity of the layers."""
    figures = [
        (
            plot_topographies(
                {_CLASSES[label]: values for label, values in explained.maps.items()},
                explained.position,
                unit="% of attribution",
                title="Where the evidence comes from",
                names=explained.names,
                mark=("C3", "C4"),
                signed=False,
            ),
            "Integrated gradients of the logit of the right hand, magnitude per channel, held-out "
            f"windows of each class. Completeness error {explained.completeness_error:.0%}: "
            "gradients pass the quantizer as if it were not there, so the map says where, not how "
            "much.",
        ),
        (
            plot_layer_scores(
                explained.layers, title="Layers beside the classes and beside the EEG"
            ),
            "Rank correlation of dissimilarities between (person, run, class) averages, within "
            "people. Grey: what relabelled conditions give.",
        ),
    ]
    figures += [
        (plot_rdm(matrix, title=f"Dissimilarity: {name}", groups=explained.groups), caption)
        for name, matrix, caption in (
            ("EEG power, mu and beta", explained.rdms["EEG"], "Conditions ordered by person."),
            (
                list(explained.rdms)[-1],
                list(explained.rdms.values())[-1],
                "The same conditions in the last layer that is used.",
            ),
        )
    ]
    table = [
        {"removed over": f"{side} motor cortex"}
        | {band: f"{value:+.3f}" for band, value in bands.items()}
        for side, bands in explained.effect.items()
    ]
    text = (
        "The table shows how the preference for the right hand (difference of logits) changes when "
        "one frequency band is taken out over one hemisphere's motor cortex. A rhythm that fades "
        "opposite to the imagined hand predicts: removing mu or beta on the left speaks for the "
        "right hand (positive), on the right for the left hand (negative)."
    )
    report.add_section("Explanation", text=text, figures=figures, table=table)
