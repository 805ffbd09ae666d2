"""`neurofm stream`: a fine-tuned decoder on a running stream."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from neurofm.live import LiveDecoder, Outcome, Prediction, Session, Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Apply a fine-tuned run of `Decode` to a running stream. The recipe's filters become "
        "causal; train with `causal: true` in its steps, and the stream sees what training saw. "
        "At the end, latencies, what was lost, and the agreement with offline predictions."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "run", nargs="?", metavar="RUN", help="folder below runs/, checkpoint, or recipe run here"
    )
    which.add_argument("--model", type=Path, metavar="FILE", help="from `neurofm export`")
    parser.add_argument(
        "--source", required=True, metavar="lsl[:NAME]|FILE", help="LSL stream, or a recording"
    )
    parser.add_argument(
        "--step", type=float, default=0.25, metavar="S", help="seconds between predictions (0.25)"
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="of a recording: 1 true speed, 0 as fast as possible",
    )
    parser.add_argument(
        "--holes",
        choices=("skip", "predict"),
        default="skip",
        help="windows with missing samples: no prediction, or a marked one",
    )
    parser.add_argument(
        "--jitter", type=float, default=0.02, metavar="S", help="of time stamps, ignored (0.02)"
    )
    parser.add_argument("--unit", help="of an LSL stream that does not say it, such as uV")
    parser.add_argument("--dataset", help="of several in the recipe, whose preprocessing is used")
    parser.add_argument(
        "--wait", type=float, default=10.0, metavar="S", help="for LSL samples (10)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv or .jsonl, appended")
    parser.add_argument("--outlet", metavar="NAME", help="also send predictions as an LSL stream")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="probabilities, latencies")
    parser.add_argument("--quiet", action="store_true", help="the summary alone")


def run(args: argparse.Namespace) -> int:
    """Predict until the stream ends, then say how it went.

    Raises:
        ValueError: The stream, or the decoder, is not what the other needs.
    """
    from neurofm.live import LslOutlet, PredictionTable, Session, load_decoder, load_exported

    console = Console(soft_wrap=True, highlight=False)
    decoder: LiveDecoder
    if args.model is not None:
        decoder = load_exported(args.model)
    else:
        decoder = load_decoder(args.run, dataset=args.dataset)
    labels = decoder.facts.labels
    source = _source(args, decoder)
    session = Session(decoder, source, step_s=args.step, holes=args.holes, tolerance_s=args.jitter)
    head = source.head
    console.print(
        f"{decoder.facts.name}: {', '.join(labels)}; {len(head.sensors)} channels at "
        f"{head.sfreq:g} Hz, windows of {decoder.facts.window_s:g} s every {args.step:g} s, "
        f"filters delay {1000 * session.processing.delay_s:.0f} ms",
        markup=False,
    )
    for note in session.processing.notes:
        console.print(f"  {note}", markup=False)
    emits: list[Callable[[Prediction], None]] = []
    with contextlib.ExitStack() as stack:
        if not args.quiet:
            emits.append(lambda made: console.print(_line(made, labels), markup=False))
        table, lost = None, ""
        if args.out is not None:
            table = stack.enter_context(PredictionTable(args.out, labels))
            emits.append(table)
        if args.outlet is not None:
            emits.append(LslOutlet(args.outlet, labels))

        def emit(made: Prediction) -> None:
            nonlocal lost
            for one in tuple(emits):
                try:
                    one(made)
                except OSError as error:  # a full disk ends no stream
                    if one is not table:
                        raise
                    emits.remove(one)
                    lost = f"--out {args.out}: {error.strerror}; nothing from {made.time_s:g} s on."
                    console.print(lost, markup=False)

        outcome = session.run(emit)
    _summary(console, session, outcome)
    if args.figure is not None and outcome.predictions:
        _draw(args.figure, session, outcome)
        console.print(f"figure: {args.figure}", markup=False)
    if lost:
        raise OSError(f"{lost} What came before is whole.")
    return 0 if outcome.predictions else 1


def _source(args: argparse.Namespace, decoder: LiveDecoder) -> Source:
    from neurofm.live import FileSource, LslSource

    kind, _, name = args.source.partition(":")
    if kind == "lsl" and not Path(args.source).exists():
        return LslSource(name or None, wait_s=args.wait, unit=args.unit)
    return FileSource(args.source, datasets=decoder.facts.datasets, speed=args.speed)


def _line(made: Prediction, labels: tuple[str, ...]) -> str:
    p = made.probability
    values = "  ".join(f"{label} {x:.3f}" for label, x in zip(labels, p, strict=True))
    mark = "  (missing samples)" if made.hole else ""
    return f"{made.time_s:8.2f} s  {values}  {1000 * made.latency_s:6.1f} ms{mark}"


def _summary(console: Console, session: Session, outcome: Outcome) -> None:
    for line in summary(session, outcome):
        console.print(line, markup=False)


def summary(session: Session, outcome: Outcome) -> list[str]:
    """How a stream went, in lines."""
    from neurofm.live import at_events, compare, score

    faults, made = outcome.faults, outcome.predictions
    lines = [
        f"{outcome.ended} after {outcome.seconds:.1f} s: {len(made)} predictions; not predicted: "
        f"{outcome.warming_up} while warming up, "
        f"{outcome.with_hole if session.holes == 'skip' else 0} with missing samples, "
        f"{outcome.too_late} too late, {outcome.refused} refused",
        f"samples: {faults.missing} missing in {faults.holes} holes, {faults.late} late, "
        f"{faults.not_finite} not finite, {faults.restarts} restarts, jitter "
        f"{1000 * faults.jitter_s:.2g} ms",
    ]
    if faults.bad_channels:
        names = session.source.head.sensors.names
        worst = ", ".join(f"{names[i]} ({n})" for i, n in faults.bad_channels.most_common(4))
        lines.append(f"not finite in {len(faults.bad_channels)} channels: {worst}")
    if faults.holes > 2 and faults.late > 2:
        lines.append("holes and late samples in turn are jitter of the time stamps: see --jitter")
    if outcome.refused:
        lines.append(f"refused: {outcome.refused_why}")
    if not made:
        first_s = session.processing.warm_up_s + session.decoder.facts.window_s
        if outcome.seconds < first_s:
            return [*lines, f"The first window to be predicted ends after {first_s:g} s."]
        why = "was as training had it" if outcome.refused else "was whole"
        return [*lines, f"No window of {session.decoder.facts.window_s:g} s {why}."]
    lines.append(
        f"latency, last sample to prediction: p50 {1000 * outcome.latency_s(50):.1f} ms, p99 "
        f"{1000 * outcome.latency_s(99):.1f} ms; computing takes {outcome.share:.1%} of the time"
    )
    facts = session.decoder.facts
    whole = session.source.whole
    at, y = at_events(
        made,
        () if whole is None else whole.events,
        labels=facts.labels,
        window_s=facts.window_s,
        offset_s=facts.offset_s,
        step_s=session.step_s,
    )
    results = [("stream", outcome.probability)]
    ways = [("offline, one pass of the same steps", False)]
    if session.processing.notes and whole is not None:
        ways.append(("offline, the recipe's own steps", True))
    for name, own in ways:
        found = compare(session, outcome, own_steps=own)
        if found is not None:
            lines.append(
                f"{name}: same class in {found.same:.1%} of {found.n} windows, probabilities "
                f"differ by at most {found.largest:.2g}"
            )
            if found.n == len(made):
                results.append((name, found.probability))
    for name, probability in results:
        right = score(probability, at, y)
        if right is not None:
            lines.append(
                f"{name}: balanced accuracy {right.balanced:.3f} at {right.n} events (chance "
                f"{right.chance:.3f}; guessing reaches {right.luck:.3f} one time in twenty)"
            )
    return lines


def _draw(path: Path, session: Session, outcome: Outcome) -> None:
    import numpy as np

    from neurofm.report.live_figure import plot_stream

    facts, whole = session.decoder.facts, session.source.whole
    figure = plot_stream(
        np.array([p.time_s for p in outcome.predictions]),
        outcome.probability,
        np.array([p.latency_s for p in outcome.predictions]),
        labels=facts.labels,
        events=() if whole is None else whole.events,
        window_s=facts.window_s,
        title=f"{facts.name} on {session.source.head.recording.id}",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
