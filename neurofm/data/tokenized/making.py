"""Tokens of a prepared store's recordings, made once: resumable, on any executor.

A recording's key is a hash of the prepared recording's key (its sources, rules, steps), the
tokenizer (weights, arguments, options), how windows are cut, the type of the values and
`CODE_VERSION`; what has its key in the store, whole, is never made again. Windows of one recording
are tokenized together, so that nothing is padded and the bytes do not depend on the executor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Tokens
from neurofm.cards import build, spec_of
from neurofm.data.preparing.executors import Executor
from neurofm.data.preparing.journal import Journal
from neurofm.data.preparing.keys import digest, plain_name
from neurofm.data.preparing.preparation import Prepared, prepared
from neurofm.data.preparing.progress import shown
from neurofm.data.preparing.running import JOURNAL, SEAL_S, Run
from neurofm.data.tokenized.identity import check_started, tokenizer_name, values_of
from neurofm.data.windows import Windows
from neurofm.io import Entry, Store
from neurofm.io.stores.blocks import TOKENS
from neurofm.io.stores.store import read_record
from neurofm.io.stores.tokens import CODE_VERSION, VALUE_TYPES, WindowTokens, write_tokens
from neurofm.types import Recording

_SAMPLES = 1 << 20  # of a batch: what the first layers make of them is some hundred megabytes
_TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class TokenJob:
    """A prepared recording to tokenize.

    Args:
        place: Of the recording in its store.
    """

    recording: Recording
    place: int
    key: str


@dataclass(frozen=True)
class Tokenization:
    """What is done with every recording: what is sent to workers, once each.

    Args:
        windows: Of the recordings that are asked for, in one prepared store.
        tokenizer: In evaluation mode.
        options: How it is called beside the batch.
        name: Of the tokenizer, from `tokenizer_name`.
        values: What is kept of the values, one of `VALUE_TYPES`.
        store: Where tokens go.
        device: Where they are made.
    """

    windows: Windows
    tokenizer: nn.Module
    options: dict[str, Any]
    name: str
    values: str
    store: Path
    device: str = "cpu"

    def __getstate__(self) -> dict[str, Any]:
        """For workers: torch does not pickle weight-normalized modules, so ours are rebuilt."""
        state = dict(self.__dict__)
        spec = spec_of(self.tokenizer) if hasattr(self.tokenizer, "_arguments") else None
        if spec is not None and spec["class_path"].startswith("neurofm."):
            tensors = {k: v.cpu() for k, v in self.tokenizer.state_dict().items()}
            state["tokenizer"] = spec, tensors
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["tokenizer"], tuple):
            spec, tensors = state["tokenizer"]
            made: nn.Module = build(spec)
            made.load_state_dict(tensors)
            state["tokenizer"] = made.eval().requires_grad_(False).to(state["device"])
        self.__dict__.update(state)

    def cut(self) -> dict[str, Any]:
        """How windows are cut, as plain data."""
        return self.windows.cut.document()

    def key(self, entry: Entry, subject: int) -> str:
        """Name of the files of a recording's tokens."""
        parts: dict[str, Any] = {
            "prepared": entry.key,
            "tokenizer": self.name,
            "cut": self.cut(),
            "values": self.values,
            "code": CODE_VERSION,
        }
        # A tokenizer with a layer for each person depends on the person's number.
        if any(getattr(part, "n_subjects", 1) > 1 for part in self.tokenizer.modules()):
            parts["subject"] = subject
        return f"{plain_name(entry.recording.id)}-{digest(parts)[:16]}"

    def __call__(self, job: TokenJob) -> Prepared:
        """Tokenize one recording unless the store has it, whole.

        Raises:
            ValueError: No window fits into it, or the tokenizer refuses it.
            OSError: As raised while reading or writing.
        """
        record = read_record(self.store, job.key)
        if record is not None:
            return prepared(self.store, record, made=False)
        entry = self.windows.entries[job.place]
        held = np.flatnonzero(self.windows.recording == job.place)
        if not len(held):
            raise ValueError(
                f"{entry.recording.id}: no window of {self.windows.window_s:g} s fits into its "
                f"{entry.duration:g} s, or there is no event to cut one at."
            )
        record = write_tokens(
            self.store,
            entry,
            self._batches(held, entry),
            key=job.key,
            n_codes=max(int(self.tokenizer.n_codes), 1),  # type: ignore[arg-type]
            values=self.values,
            provenance={
                "source": entry.provenance.get("source"),
                "prepared": entry.key,
                "tokenizer": self.name,
                "code_version": CODE_VERSION,
            },
        )
        about = record["details"][TOKENS]
        return prepared(
            self.store, record, made=True, tokens=about["n_windows"] * about["n_tokens"]
        )

    def _batches(self, held: np.ndarray, entry: Entry) -> Iterator[WindowTokens]:
        samples = entry.n_channels * max(round(self.windows.window_s * entry.sfreq), 1)
        size = max(1, _SAMPLES // samples)
        for at in range(0, len(held), size):
            index = held[at : at + size]
            tokens = self.tokens(self.windows.batch(index))
            yield self._as_stored(tokens, self.windows.start[index], entry.recording.id)

    def tokens(self, batch: Batch) -> Tokens:
        """Tokens of a batch of whole windows."""
        with torch.inference_mode():
            found: Tokens = self.tokenizer(batch.to(self.device), **self.options)
            return found.to("cpu")

    def _as_stored(self, tokens: Tokens, start: np.ndarray, name: str) -> WindowTokens:
        for what in ("channel", "time"):
            grid = getattr(tokens, what)
            if not torch.equal(grid, grid[:1].expand_as(grid)):
                raise ValueError(f"{name}: windows differ in the {what} of their tokens.")
        codes = tokens.codes
        values = None
        if self.values == "none":
            if codes is None or not _given_back(self.tokenizer, tokens):
                raise ValueError(
                    f"{name}: the codes do not give the values back, so values must be kept: "
                    "`--values float16`."
                )
        else:
            kept = tokens.values.to(_TORCH[self.values])
            if not bool(kept[tokens.mask].isfinite().all()):
                raise ValueError(
                    f"{name}: values of tokens are not finite as {self.values}. Use `--values "
                    "bfloat16` or float32 if they are large; else look at the recording."
                )
            values = _bits(kept)
        return WindowTokens(
            start=start.astype(np.int64),
            mask=tokens.mask.numpy(),
            channel=tokens.channel[0].numpy(),
            time=tokens.time[0].float().numpy(),
            codes=None if codes is None else codes.numpy(),
            values=values,
        )


def tokenize_store(
    store: Store,
    tokenizer: nn.Module,
    out: Path | str,
    *,
    options: dict[str, Any] | None = None,
    source: str = "",
    values: str | None = None,
    recordings: Sequence[int] | None = None,
    cut: dict[str, Any],
    device: str = "cpu",
    progress: bool = True,
    strict: bool = False,
    executor: str | Executor = "inprocess",
    workers: int | None = None,
    scheduler: str | None = None,
    rehash: bool = False,
    seal_s: float = SEAL_S,
) -> Path:
    """Tokenize the windows of a prepared store; what is done already is left alone.

    A recording that cannot be tokenized is listed in `problems.json`, with the reason, and the
    others go on; the next run tries it again.

    Args:
        store: Of prepared recordings, on a disk.
        tokenizer: Trained.
        out: Folder of stores; the tokens get one of their own in it.
        options: How the model that will read the tokens calls it, from `token_options`.
        source: Where the tokenizer came from, for people.
        values: "none", "float16", "bfloat16" or "float32"; if not given, none where the codes give
            them back and float16 elsewhere.
        recordings: Positions in the store; all if not given.
        cut: Arguments of `Windows`: window_s, stride_s, labels, offset_s, avoid.
        device: "cpu" or "cuda"; with an executor of processes each uses it.
        rehash: Read all tokens that are there again, whatever the journal says.
        strict: So `progress`, `executor`, `workers`, `scheduler` and `seal_s`: as in
            `prepare_corpus`.

    Returns:
        Folder of the store of tokens.

    Raises:
        ValueError: An untrained tokenizer, no window, or no recording could be tokenized.
        OSError: The disk is full or read-only; what is complete stays readable.
    """
    check_started(tokenizer, where=source or "tokenize")
    if store.columns.is_tokens.any():
        raise ValueError(f"{store.where}: holds tokens already. Name a store of recordings.")
    chosen = range(len(store)) if recordings is None else list(recordings)
    windows = Windows(store, recordings=chosen, **cut)
    options = options or {}
    tokenizer = tokenizer.eval().requires_grad_(False).to(device)
    work = Tokenization(
        windows, tokenizer, options, tokenizer_name(tokenizer, options), "none", Path(), device
    )
    kept = _values(work) if values is None else values
    if kept not in VALUE_TYPES:
        raise ValueError(f"tokenize: values {kept!r}, expected one of {', '.join(VALUE_TYPES)}.")
    about = {
        "dataset": str(store.about.get("dataset", Path(store.where).name)),
        "steps": store.about.get("steps", []),
        "dtype": TOKENS,
        "prepared": Path(store.where).resolve().name,
        "tokenizer": work.name,
        "tokenizer_source": source,
        "cut": work.cut(),
        "values": kept,
    }
    parts = {k: v for k, v in about.items() if k != "tokenizer_source"}
    folder = Path(out) / f"{plain_name(about['dataset'])}-{digest(parts)[:12]}"
    (folder / "recordings").mkdir(parents=True, exist_ok=True)
    work = Tokenization(windows, tokenizer, options, work.name, kept, folder, device)
    with (
        closing(Journal(folder / JOURNAL, believe=not rehash)) as journal,
        shown(about["dataset"], len(chosen), progress, command="tokenize") as counter,
    ):
        run = Run(
            folder,
            about,
            journal,
            counter,
            name=about["dataset"],
            command="tokenize",
            strict=strict,
            seal_s=seal_s,
        )
        jobs = _unfinished(run, work, chosen)
        run.do(work, jobs, executor=executor, workers=workers, scheduler=scheduler)
    run.report(len(chosen))
    return folder


def _unfinished(run: Run, work: Tokenization, chosen: Sequence[int]) -> Iterator[TokenJob]:
    """Jobs for recordings that may need work; counts the others."""
    entries = work.windows.entries
    for place in chosen:
        entry = entries[place]
        key = work.key(entry, work.windows.subject_of(place))
        found = run.journal.finished(run.store, key)
        if found is None:
            yield TokenJob(entry.recording, place, key)
        else:
            run.count(entry.recording, Prepared(found, made=False))


def _values(work: Tokenization) -> str:
    """ "none" if the codes of a window give its values back, else "float16"."""
    tokens = work.tokens(work.windows.batch([0]))
    return "none" if _given_back(work.tokenizer, tokens) else "float16"


def _given_back(tokenizer: nn.Module, tokens: Tokens) -> bool:
    """Whether looking up the codes gives the values of real tokens, to rounding."""
    if tokens.codes is None:
        return False
    device = next((p.device for p in tokenizer.parameters()), torch.device("cpu"))
    found = values_of(tokenizer, tokens.codes.to(device))
    if found is None or found.shape != tokens.values.shape:
        return False
    mask = tokens.mask
    return torch.allclose(found.cpu()[mask], tokens.values[mask], rtol=1e-4, atol=1e-5)


def _bits(values: Tensor) -> np.ndarray:
    """As on disk; numpy has no bfloat16."""
    if values.dtype == torch.bfloat16:
        return values.contiguous().view(torch.int16).numpy().view(np.uint16)
    return values.numpy()
