"""`neurofm federated serve|join|run RECIPE`: federated training with a process for each client.

The recipe is that of the simulation in one process (`neurofm fit --config federated_fleeg`). Every
place has it; each client reads its own dataset alone. What leaves a client: the tensors that
clients share, its numbers of windows, and its validation scores.
"""

from __future__ import annotations

import argparse
import logging
import socket
import subprocess
import sys
from pathlib import Path

from neurofm.cli.federated.flower import join, loopback, serve
from neurofm.cli.federated.recipe import read_recipe
from neurofm.cli.federated.rounds import Rounds
from neurofm.tasks.federated_client import FederatedClient

_MAIN = "import sys; from neurofm.cli import main; sys.exit(main())"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the three parts."""
    parser.add_argument(
        "part",
        choices=("serve", "join", "run"),
        help="serve: average; join: be a client; run: everything on this machine",
    )
    parser.add_argument("recipe", help="name or path of a recipe of the task Federated")
    parser.add_argument("--client", help="join: which one, by the name of its dataset")
    parser.add_argument("--address", default="127.0.0.1:8080", help="host:port of the server")
    parser.add_argument("--out", type=Path, help="folder of states and results; runs/RECIPE")
    parser.add_argument(
        "--certificates",
        nargs=3,
        type=Path,
        metavar=("CA", "CERTIFICATE", "KEY"),
        help="serve: PEM files for TLS",
    )
    parser.add_argument(
        "--root-certificate", type=Path, metavar="CA", help="join: PEM file that proves the server"
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="no TLS although the server is not on this machine: anybody on the way reads weights",
    )
    parser.add_argument(
        "--wait", type=float, default=600.0, metavar="S", help="for the other side, seconds"
    )
    parser.add_argument(
        "--round-timeout",
        type=float,
        metavar="S",
        help="serve: a client that takes longer is left out of the round",
    )


def run(args: argparse.Namespace) -> int:
    """Do one part.

    Raises:
        ValueError: An address beyond this machine without TLS, or no such client.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("neurofm").setLevel(logging.INFO)
    folder = args.out or Path("runs") / Path(args.recipe).stem
    if args.part == "run":
        return _all_here(args, folder)
    _require_tls(args)
    recipe = read_recipe(args.recipe)
    try:
        if args.part == "serve":
            rounds = Rounds(recipe.task, total=recipe.rounds, folder=folder)
            if rounds.done >= rounds.total:
                return _said(f"all {rounds.total} rounds are done; see {folder}.", 0)
            serve(
                rounds,
                address=args.address,
                certificates=args.certificates and tuple(args.certificates),
                wait_s=args.wait,
                round_timeout_s=args.round_timeout,
            )
            return _said(f"{rounds.done} rounds are done; see {folder}.", 0)
        if args.client is None:
            raise ValueError(f"join: which client? --client, one of {recipe.task.model.names}.")
        client = FederatedClient(
            recipe.task,
            args.client,
            recipe.data_of(args.client),
            rounds=recipe.rounds,
            folder=folder / args.client,
            seed=recipe.seed,
        )
        join(
            client,
            address=args.address,
            root_certificate=args.root_certificate,
            wait_s=args.wait,
        )
    except RuntimeError as error:
        return _said(str(error), 1)
    return 0


def _require_tls(args: argparse.Namespace) -> None:
    encrypted = args.certificates if args.part == "serve" else args.root_certificate
    if encrypted or args.insecure or loopback(args.address):
        return
    option = "--certificates" if args.part == "serve" else "--root-certificate"
    raise ValueError(
        f"{args.address} is not this machine alone: give {option} for TLS, or --insecure on a "
        "network that you trust."
    )


def _all_here(args: argparse.Namespace, folder: Path) -> int:
    """Server and clients as processes on this machine, on a free port; the server's exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = [args.recipe, "--address", address, "--out", str(folder), "--wait", str(args.wait)]
    timeout = [] if args.round_timeout is None else ["--round-timeout", str(args.round_timeout)]
    clients = [
        ["join", *common, "--client", name] for name in read_recipe(args.recipe).task.model.names
    ]
    command = [sys.executable, "-c", _MAIN, "federated"]
    server = subprocess.Popen([*command, "serve", *common, *timeout])
    started = [subprocess.Popen([*command, *words]) for words in clients]
    try:
        code = server.wait()
        for process in started:
            process.wait(timeout=args.wait if code == 0 else 5)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in (server, *started):
            if process.poll() is None:
                process.terminate()
    return code


def _said(text: str, code: int) -> int:
    sys.stderr.write(f"neurofm federated: {text}\n")
    return code
