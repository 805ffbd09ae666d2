"""Tokens from the store against tokenizing on the way and against tokens kept in memory.

The model is BrainOmni of the demo size with random weights (its code books started from one batch),
the data are windows of 5 s of EEGMMIDB under $NEUROFM_DATA, else simulated, at 256 Hz. All ways
serve the same random batches in turn, in one process with one thread; times are CPU times. Batches
alone: from the windows to codes and values on the way to the model. Step: a whole training step on
the batch (masked codes, AdamW).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH = 8
CUT = {"window_s": 5.0, "stride_s": 5.0}


def build(folder: Path) -> tuple[Any, Any, Any]:
    """Model, windows of the signal, windows of stored tokens."""
    from neurofm.data import Windows, prepare_corpus
    from neurofm.data.steps.preprocess import build_steps
    from neurofm.data.tokenized.making import tokenize_store
    from neurofm.io import Store, load_model, open_corpus

    real = bool(os.environ.get("NEUROFM_DATA"))
    corpus = open_corpus("eegmmidb" if real else "simulated_motor_imagery")
    specs = [
        {"class_path": "neurofm.data.Bandpass", "init_args": {"low": 4.0, "high": 40.0}},
        {"class_path": "neurofm.data.Resample", "init_args": {"sfreq": 256.0}},
    ]
    steps = build_steps(specs, line_freq=None)
    subjects, runs = ["7", "8"] if real else ["1", "2"], ["4"] if real else ["1"]
    prepared = prepare_corpus(corpus, steps, folder, subjects=subjects, runs=runs, progress=False)
    signal = Windows(prepared, **CUT)
    torch.manual_seed(0)
    model: Any = load_model("brainomni_demo")
    with torch.no_grad():
        model.tokenizer(signal.batch(range(BATCH)))
    start, cpu = time.perf_counter(), time.process_time()
    made = tokenize_store(
        Store(prepared),
        model.tokenizer,
        folder / "tokens",
        options=model.token_options,
        cut=CUT,
        progress=False,
    )
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    store = Store(made)
    about = [entry.details["tokens"] for entry in store.entries]
    count = sum(item["n_windows"] * item["n_tokens"] for item in about)
    sizes = [s.columns.n_bytes.sum() / 1e6 for s in (signal.stores[0], store)]
    print(
        f"{len(signal)} windows, {count} tokens made in {cpu:.1f} s CPU ({wall:.1f} s): "
        f"{count / cpu:.0f} tokens per s; {sizes[1]:.2f} MB, the signal has {sizes[0]:.1f}"
    )
    return model, signal, Windows(made, **CUT)


def ways(model: Any, signal: Any, stored: Any) -> dict[str, Callable[[np.ndarray], Any]]:
    """From indices of windows to a batch with complete tokens."""
    from neurofm.tasks.stored_tokens import OwnTokens
    from neurofm.tasks.token_cache import TokenCache

    own, cache = OwnTokens(model), TokenCache(model.tokenize)
    for i in range(len(signal)):
        cache(signal.batch([i]))

    def on_the_way(index: np.ndarray) -> Any:
        batch = signal.batch(index)
        with torch.no_grad():
            return replace(batch, tokens=model.tokenize(batch))

    return {
        "tokenizing on the way": on_the_way,
        "kept in memory (TokenCache)": lambda index: cache(signal.batch(index)),
        "from the store": lambda index: own(stored.batch(index)),
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tokens")
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args(arguments).repeats
    from neurofm.objectives import MaskedCodes

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model, signal, stored = build(Path(folder))
        made = ways(model, signal, stored)
        optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
        objective, order = MaskedCodes(), np.random.default_rng(0)
        model.train()
        times: dict[str, dict[str, list[float]]] = {
            name: {"batch": [], "step": []} for name in made
        }
        for turn in range(repeats + 1):
            index = order.integers(len(signal), size=BATCH)
            for name, way in made.items():
                start = time.process_time()
                batch = way(index)
                middle = time.process_time()
                objective(model, batch)["loss"].backward()
                optimizer.step()
                optimizer.zero_grad()
                if turn:  # the first one warms up
                    times[name]["batch"].append((middle - start) / BATCH * 1e3)
                    times[name]["step"].append((time.process_time() - start) / BATCH * 1e3)
        for name, found in times.items():
            shown = []
            for values in found.values():
                low, high = min(values), max(values)
                shown.append(f"{statistics.median(values):8.2f} ({low:.2f} - {high:.2f})")
            print(f"{name:32s} ms per window: batch {shown[0]}, step {shown[1]}")
