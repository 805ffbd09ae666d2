"""The `neurofm` command: finds the module of one subcommand and runs it.

Every subcommand is a module with `add_arguments(parser)` and `run(args) -> int`. Only the module
asked for is imported, so that commands which look at recordings start quickly and load no deep
learning.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from neurofm import __version__

# Shown as one line. Anything else is a fault of ours, and its traceback is wanted.
EXPECTED = (ValueError, OSError, ImportError)


@dataclass(frozen=True)
class Command:
    """One row of the table of subcommands.

    Args:
        module: Import path; "" for the LightningCLI commands, which read the words themselves.
        group: Heading in the help.
        help: What it is for, in one line.
        example: A command line that works.
    """

    module: str
    group: str
    help: str
    example: str


_LOOK, _PREPARE, _TRAIN = "Look at recordings", "Prepare recordings", "Train and explain"
_START, _CARDS = "Start here", "Find and change cards"
_LIGHTNING = "neurofm.cli.train"
COMMANDS: dict[str, Command] = {
    "demo": Command(
        "neurofm.cli.demo",
        _START,
        "the whole way on one page: data, tokens, pretraining, decoding, explanation",
        "neurofm demo",
    ),
    "doctor": Command(
        "neurofm.cli.doctor",
        _START,
        "what is wrong with this installation or machine, and how to fix it",
        "neurofm doctor",
    ),
    "check": Command(
        "neurofm.cli.check",
        _LOOK,
        "what a recording, a folder or a corpus holds, and what is wrong with it",
        "neurofm check eegmmidb",
    ),
    "audit": Command(
        "neurofm.cli.audit",
        _LOOK,
        "what leaks between training and test in a table of windows or recordings",
        "neurofm audit windows.csv --by subject",
    ),
    "fetch": Command(
        "neurofm.cli.fetch",
        _LOOK,
        "download an open corpus to where its card looks for it",
        "neurofm fetch eegmmidb --subjects 1 2 --runs 4 8 12",
    ),
    "list": Command(
        "neurofm.cli.cards",
        _CARDS,
        "names of all datasets, models and recipes",
        "neurofm list datasets",
    ),
    "show": Command(
        "neurofm.cli.cards", _CARDS, "print one card or recipe", "neurofm show datasets/eegmmidb"
    ),
    "copy": Command(
        "neurofm.cli.cards",
        _CARDS,
        "copy a card or recipe here, to change it",
        "neurofm copy datasets/eegmmidb mine.yaml",
    ),
    "prepare": Command(
        "neurofm.cli.prepare",
        _PREPARE,
        "filter and resample a corpus once, into a store that training reads",
        "neurofm prepare eegmmidb",
    ),
    "tokenize": Command(
        "neurofm.cli.tokenize",
        _PREPARE,
        "make the tokens of a corpus once, to train on them without the signal",
        "neurofm tokenize --config pretrain_brainomni_tokens_eegmmidb",
    ),
    "verify": Command(
        "neurofm.cli.verify",
        _PREPARE,
        "read every byte of a store; find what is damaged and prepare that again",
        "neurofm verify eegmmidb",
    ),
    "store": Command(
        "neurofm.cli.store",
        _PREPARE,
        "what prepared stores hold, what can go, how and from what they were made",
        "neurofm store du",
    ),
    "convert": Command(
        "neurofm.cli.convert",
        _PREPARE,
        "turn a published checkpoint into one neurofm loads",
        "neurofm convert weights.pt --model brainomni_tiny --out brainomni_tiny.safetensors",
    ),
    "fit": Command(
        _LIGHTNING, _TRAIN, "train by a recipe", "neurofm fit --config pretrain_simulated"
    ),
    "validate": Command(
        _LIGHTNING,
        _TRAIN,
        "score a checkpoint on the validation windows of a recipe",
        "neurofm validate --config probe_simulated --ckpt_path runs/last.ckpt",
    ),
    "test": Command(
        _LIGHTNING,
        _TRAIN,
        "score a checkpoint on the test windows of a recipe",
        "neurofm test --config probe_simulated --ckpt_path runs/last.ckpt",
    ),
    "predict": Command(
        _LIGHTNING,
        _TRAIN,
        "predictions of a checkpoint",
        "neurofm predict --config probe_simulated --ckpt_path runs/last.ckpt",
    ),
    "stream": Command(
        "neurofm.cli.stream",
        _TRAIN,
        "apply a fine-tuned run to a running stream; latencies, agreement with offline",
        "neurofm stream runs/live_dbconformer_eegmmidb --source lsl",
    ),
    "export": Command(
        "neurofm.cli.export",
        _TRAIN,
        "a fine-tuned run as TorchScript or ONNX, compared with itself",
        "neurofm export runs/live_dbconformer_eegmmidb --format onnx",
    ),
    "benchmark": Command(
        "neurofm.cli.benchmark",
        _TRAIN,
        "compare methods on the same people, windows and labels; a table and a figure",
        "neurofm benchmark pretraining",
    ),
    "explain": Command(
        "neurofm.cli.explain",
        _TRAIN,
        "what a fine-tuned model looks at, and when the information is there",
        "neurofm explain runs/scratch_simulated",
    ),
    "federated": Command(
        "neurofm.cli.federated",
        _TRAIN,
        "train networks of several places that share last layers, never data",
        "neurofm federated run federated_fleeg",
    ),
    "report": Command(
        "neurofm.cli.report",
        _TRAIN,
        "figures and tables of a finished run, as one page",
        "neurofm report runs/probe_simulated",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: Words after `neurofm`; those of the process if None.

    Returns:
        Exit code: 0 fine, 1 the command found problems, 2 wrong use or input, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _run(words)
    except SystemExit as stop:  # argparse and LightningCLI print and leave
        if isinstance(stop.code, str):
            return _fail(stop.code)
        return int(stop.code or 0)
    except KeyboardInterrupt:
        _say("neurofm: interrupted. What was finished is kept; the same command continues.")
        return 130
    except BrokenPipeError:  # `neurofm list | head` closed our output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EXPECTED as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error) or type(error).__name__)


def _run(words: list[str]) -> int:
    if not words or words[0] in {"-h", "--help", "help"}:
        sys.stdout.write(overview())
        return 0
    if words[0] in {"-V", "--version"}:
        sys.stdout.write(f"neurofm {__version__}\n")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=2, cutoff=0.5)
        hint = f" Did you mean `neurofm {'` or `neurofm '.join(near)}`?" if near else ""
        raise ValueError(f"there is no command {name!r}.{hint} `neurofm --help` lists all.")
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    if command.module == _LIGHTNING:
        return int(module.main(words))
    parser = argparse.ArgumentParser(
        prog=f"neurofm {name}",
        description=f"{command.help[0].upper()}{command.help[1:]}.",
        epilog=f"Example: {command.example}",
    )
    parser.set_defaults(command=name)
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    previous = warnings.formatwarning
    warnings.formatwarning = _one_line
    try:
        return int(module.run(args))
    finally:
        warnings.formatwarning = previous


def overview() -> str:
    """The help of `neurofm` itself: commands by what one wants to do, an example each."""
    lines = [
        "neurofm: brain recordings become tokens, feed foundation models, and are explained.",
        "",
        "usage: neurofm COMMAND [options]        (neurofm COMMAND --help for its options)",
    ]
    for group in (_START, _LOOK, _CARDS, _PREPARE, _TRAIN):
        lines += ["", f"{group}:"]
        for name, command in COMMANDS.items():
            if command.group == group:
                lines += [f"  {name:<9} {command.help}", f"            $ {command.example}"]
    lines += [
        "",
        "Everywhere: --debug shows where an error came from; --version prints the version.",
        "Recordings are looked for in $NEUROFM_DATA, one folder per corpus.",
    ]
    return "\n".join(lines) + "\n"


def _one_line(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    return f"neurofm: warning: {message}\n"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _fail(message: str) -> int:
    _say(f"neurofm: error: {message}")
    return 2
