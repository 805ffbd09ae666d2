"""The steps of the demo, in order, and what each one says."""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console

from neurofm import metrics
from neurofm.batch import Tokens
from neurofm.cli.demo import pages
from neurofm.cli.demo.decoding import Decoded, decode
from neurofm.cli.demo.explaining import explain
from neurofm.cli.demo.source import Source, find_source
from neurofm.cli.demo.training import Trained, brain_data, fit, quiet, read_recipe
from neurofm.data import Windows, audit_summary
from neurofm.io import save_model
from neurofm.report import Report
from neurofm.tokenizers import BrainTokenizer

_MARK = ".neurofm-demo"
BANDS = {"theta": (4.0, 8.0), "mu": (8.0, 13.0), "beta": (13.0, 30.0), "gamma": (30.0, 40.0)}


class Story:
    """Lines for the terminal and pages for the report, told as the demo goes on."""

    def __init__(self, console: Console, lead: str) -> None:
        self.console = console
        self.report = Report("neurofm demo", lead)
        self.lines: list[str] = []
        self.start = time.monotonic()

    def step(self, title: str) -> None:
        """Say what comes next."""
        passed = time.monotonic() - self.start
        self.console.print(f"[bold]{title}[/bold] [dim]{passed:.0f} s[/dim]")

    def tell(self, line: str) -> None:
        """Keep a line for the end."""
        self.lines.append(line)


def run_demo(args: argparse.Namespace) -> int:
    """Run all steps; the report is rewritten after each, so that an interruption loses nothing."""
    quiet()
    source = find_source(download=args.download, simulate=args.simulate)
    out: Path = args.out
    _empty(out)
    story = Story(Console(), source.lead)
    story.tell(f"data          {source.lead}")
    story.step("1/6  Data: check, prepare, split")
    tokenizer = _tokenizer(story, source, out, seed=args.seed)
    _pretrain(story, source, out, tokenizer, seed=args.seed)
    story.step("4/6  Decoding: left or right hand, leaving one run out")
    decoded = decode(source, out / "pretrain", out, seed=args.seed)
    _decoding(story, decoded)
    story.report.save(out)
    story.step("5/6  Explanation")
    explained = explain(source, decoded, seed=args.seed)
    pages.add_explanation(story.report, explained, source)
    for line in pages.explanation_lines(explained, source):
        story.tell(line)
    story.step("6/6  Report")
    minutes = (time.monotonic() - story.start) / 60
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    page = out / "report.html"
    following = (
        f"neurofm fit --config finetune_{source.recipes} "
        f"--model.model.init_args.name={out / 'pretrain'}"
    )
    story.tell(f"time          {minutes:.1f} minutes, at most {peak:.1f} GB of memory")
    story.tell(f"report        {page}")
    story.tell(f"next          {following}")
    story.report.add_lines(story.lines[1:])
    story.report.save(out)
    story.console.print()
    for line in story.lines:
        story.console.print(line, highlight=False, soft_wrap=True, markup=False)
    return 0


def _empty(out: Path) -> None:
    """Make the folder, removing what an earlier demo left; nothing else is ever removed."""
    mark = out / _MARK
    if out.exists() and any(out.iterdir()):
        if not mark.is_file():
            raise FileExistsError(
                f"{out}: is there already and is not an earlier demo. Choose another --out."
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _tokenizer(story: Story, source: Source, out: Path, *, seed: int) -> Trained:
    recipe = read_recipe(source, "train_tokenizer", model={})
    data = brain_data(
        recipe,
        source,
        subjects=source.pretrain,
        runs=source.runs,
        validate=source.pretrain[-1:] if len(source.pretrain) > 1 else 0.2,
        test=[] if len(source.pretrain) > 1 else 0.0,
        split_by="subject" if len(source.pretrain) > 1 else "time",
    )
    data.setup()
    windows, split = cast(Windows, data.windows), data.split
    if split is None:
        raise ValueError("The data module made no split.")
    pages.add_data(story.report, windows, source)
    audit = audit_summary(windows.rows, split)
    story.tell(f"split         {audit.removeprefix('split audit: ')} (audited)")
    story.step("2/6  Tokenizer: learn a code book of the signal")
    trained = fit(recipe, data, out / "tokenizer", title="Tokenizer", seed=seed)
    tokenizer = cast(BrainTokenizer, cast(Any, trained.task).tokenizer)
    batch = windows.batch(list(split.validate[:: max(len(split.validate) // 24, 1)][:24]))
    start = time.monotonic()
    with torch.no_grad():
        target, made = tokenizer.reconstruct(batch)
        seconds = time.monotonic() - start
        tokens: Tokens = tokenizer(batch)
    errors = metrics.band_error(target.numpy(), made.numpy(), windows.sfreq, BANDS)
    pages.add_tokenizer(story.report, trained, windows, target, made, errors, tokens)
    explained = ", ".join(f"{band} {100 * e['explained']:.0f} %" for band, e in errors.items())
    rate = tokens.values.shape[0] * tokens.values.shape[1] / seconds
    pcc = trained.last("validate/pcc")
    story.tell(
        f"tokenizer     reconstruction r = {pcc:.2f} on a person not trained on; power explained: "
        f"{explained}"
    )
    story.tell(
        f"code book     {100 * trained.last('validate/codebook_usage'):.0f} % of codes in use, "
        f"perplexity {trained.last('validate/codebook_perplexity'):.0f} of {tokenizer.n_codes}; "
        f"{rate:,.0f} tokens/s encoded and decoded"
    )
    story.report.save(out)
    return trained


def _pretrain(story: Story, source: Source, out: Path, tokenizer: Trained, *, seed: int) -> Trained:
    story.step("3/6  Pretraining: predict masked codes")
    recipe = read_recipe(source, "pretrain", model={})
    recipe["model"]["init_args"]["model"]["init_args"]["tokenizer"] = str(tokenizer.folder)
    split = tokenizer.data
    data = brain_data(
        recipe,
        source,
        subjects=source.pretrain,
        runs=source.runs,
        validate=split.validate,
        test=split.test,
        split_by=split.split_by,
    )
    trained = fit(recipe, data, out / "pretrain", title="Pretraining", seed=seed)
    model = cast(Any, trained.task).model
    save_model(model, out / "model.safetensors", pretrained_on=source.pretrain)
    loss, entropy = trained.last("validate/loss"), trained.last("validate/unigram_entropy")
    verdict = "below" if loss < entropy else "not below"
    story.tell(
        f"pretraining   masked-code loss {loss:.2f} nats, {verdict} the unigram entropy "
        f"{entropy:.2f}; {100 * trained.last('validate/accuracy'):.1f} % of masked codes exact "
        f"(guessing: {100 * float(np.exp(-entropy)):.1f} %)"
    )
    pages.add_pretraining(story.report, trained)
    story.report.save(out)
    return trained


def _decoding(story: Story, decoded: Decoded) -> None:
    results, verdict = pages.decoding_results(decoded)
    pages.add_decoding(story.report, decoded, results, verdict)
    for result in results:
        interval = (
            "" if result.low is None else f" [{100 * result.low:.0f}, {100 * result.high:.0f}]"  # type: ignore[operator]
        )
        story.tell(
            f"accuracy      {result.name}: {100 * result.value:.1f} %{interval}, chance "
            f"{100 * (result.chance or 0):.0f} %, {result.n} people"
        )
    story.tell(f"verdict       {verdict}")
