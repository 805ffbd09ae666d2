"""Run benchmarks by name, all of them if none is named.

python -m tests.benchmarks
python -m tests.benchmarks windows --repeats 9
"""

from __future__ import annotations

import importlib
import sys

NAMES = (
    "windows",
    "tokenizer",
    "brainomni",
    "memory",
    "filters",
    "prepare",
    "parcels",
    "tokens",
    "training_step",
    "searchlight",
    "fmri_image",
    "ridge",
    "braincorl",
    "rdms",
    "rsa_inference",
    "cka",
    "attributions",
    "sparse_autoencoders",
)


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & {*arguments[:1]}:
        print(f"{__doc__}\nBenchmarks: {', '.join(NAMES)}. Options of one: NAME --help.")
        return 0
    chosen = [word for word in arguments if word in NAMES]
    options = [word for word in arguments if word not in NAMES]
    if options and len(chosen) != 1:
        print(f"options {options} need exactly one benchmark of {', '.join(NAMES)}")
        return 2
    for name in chosen or NAMES:
        print(f"== {name}", flush=True)
        importlib.import_module(f"tests.benchmarks.{name}").main(options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
