"""Messages between server and clients through Flower: one gRPC stream for each client.

Flower's `start_server` and `start_client` are used: two processes that know one address, no further
service. Flower's own telemetry is switched off. flwr is imported when a command needs it.

Source: Beutel et al. 2020 (Flower).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurofm.cli.federated.rounds import Reply, Rounds
from neurofm.compat import optional
from neurofm.tasks.federated_client import FederatedClient

log = logging.getLogger(__name__)


def flwr(module: str) -> Any:
    """A module of flwr, quiet and without telemetry."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    found = optional(f"flwr.{module}")
    logging.getLogger("flwr").setLevel(logging.ERROR)  # it logs every message, and deprecations
    return found


def packed(tensors: Mapping[str, Tensor]) -> Any:
    """Tensors as Flower sends them, in the order of their names."""
    arrays = [tensors[name].numpy() for name in sorted(tensors)]
    return flwr("common").ndarrays_to_parameters(arrays)


def unpacked(parameters: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """The reverse.

    Raises:
        ValueError: Another number of tensors than names.
    """
    arrays = flwr("common").parameters_to_ndarrays(parameters)
    if len(arrays) != len(names):
        raise ValueError(f"{len(arrays)} tensors arrived, expected {len(names)}: {list(names)}.")
    pairs = zip(sorted(names), arrays, strict=True)
    return {name: torch.from_numpy(array.copy()) for name, array in pairs}


class Strategy:
    """What Flower's server asks for: who takes part in a round, and what comes of it.

    Args:
        wait_s: For clients, seconds: for all of them before the first round, later for anybody.
    """

    def __init__(self, rounds: Rounds, *, wait_s: float) -> None:
        self.rounds, self.wait_s = rounds, wait_s
        self._began = False

    def initialize_parameters(self, client_manager: Any) -> Any:
        """The mean that the folder holds; nothing at the start of a run."""
        return packed(self.rounds.mean)

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[Any]:
        """Everybody who is there trains."""
        needed = 1 if self._began else len(self.rounds.names)
        if not client_manager.wait_for(needed, timeout=self.wait_s):
            raise RuntimeError(
                f"Federated: {client_manager.num_available()} of {needed} clients joined in "
                f"{self.wait_s:g} s. Start `neurofm federated join` for {self.rounds.names}."
            )
        self._began = True
        ins = flwr("common").FitIns(parameters, {"round": self.rounds.done + 1})
        return [(proxy, ins) for proxy in client_manager.all().values()]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> tuple[Any, Any]:
        """The mean of what arrived."""
        replies, failed = [], dict[str, str]()
        for proxy, result in results:
            about, names = result.metrics, sorted(self.rounds.expected)
            try:
                if str(about["names"]).split(",") != names:
                    raise ValueError(f"it sent {about['names']}, expected {names}")
                tensors = unpacked(result.parameters, names)
                trained, listed = int(result.num_examples), int(about["listed"])
                replies.append(Reply(str(about["client"]), tensors, trained, listed))
            except (KeyError, ValueError) as error:
                failed[str(about.get("client", proxy.cid))] = str(error)
        for number, failure in enumerate(failures):
            if isinstance(failure, tuple):  # the client is alive and says what went wrong
                said = failure[1].metrics
                failed[str(said.get("client", number))] = failure[1].status.message
            else:
                failed[f"connection {number}"] = f"lost ({type(failure).__name__})"
        return packed(self.rounds.close(replies, failed)), {}

    def configure_evaluate(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        """Everybody who is there takes over the mean."""
        ins = flwr("common").EvaluateIns(parameters, {})
        return [(proxy, ins) for proxy in client_manager.all().values()]

    def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> Any:
        """Keep the scores."""
        scores = {str(r.metrics["client"]): dict(r.metrics) for _, r in results}
        for own in scores.values():
            own.pop("client")
        self.rounds.scored(scores)
        shown = ", ".join(
            f"{name} {own['balanced_accuracy']:.3f}"
            for name, own in scores.items()
            if "balanced_accuracy" in own
        )
        log.info("round %d of %d: %s", self.rounds.done, self.rounds.total, shown)
        return None, {}

    def evaluate(self, server_round: int, parameters: Any) -> None:
        """The server has no windows."""


class FlowerClient:
    """A client as Flower calls it."""

    def __init__(self, client: FederatedClient) -> None:
        self.client = client
        self.names = sorted(client.model.shared_names())

    def _shared(self, parameters: Any) -> dict[str, Tensor] | None:
        return unpacked(parameters, self.names) if parameters.tensors else None

    def fit(self, ins: Any) -> Any:
        """Train for a round; an error of ours leaves the client as it was, and alive."""
        common = flwr("common")
        about = {"client": self.client.name, "names": ",".join(self.names)}
        try:
            shared, windows = self.client.train(self._shared(ins.parameters))
        except ValueError as error:
            status = common.Status(common.Code.FIT_NOT_IMPLEMENTED, str(error))
            return common.FitRes(status, packed({}), 0, about)
        status = common.Status(common.Code.OK, "")
        return common.FitRes(
            status, packed(shared), windows, about | {"listed": self.client.listed}
        )

    def evaluate(self, ins: Any) -> Any:
        """Take over the mean and score the validation windows."""
        common = flwr("common")
        scores = self.client.judge(self._shared(ins.parameters))
        metrics = {"client": self.client.name, **scores}
        status = common.Status(common.Code.OK, "")
        windows = int(scores["windows"])
        return common.EvaluateRes(status, scores.get("loss", 0.0), windows, metrics)

    def to_client(self) -> FlowerClient:
        """Itself."""
        return self


def serve(
    rounds: Rounds,
    *,
    address: str,
    certificates: tuple[Path, Path, Path] | None,
    wait_s: float,
    round_timeout_s: float | None,
) -> None:
    """Run the rounds that are left.

    Args:
        address: Host and port.
        certificates: Of the authority, of the server, and the server's key (PEM); None for no TLS.
        wait_s: For clients, seconds.
        round_timeout_s: After which a client that has not answered counts as failed; None = never.
    """
    server = flwr("server")
    server.start_server(
        server_address=address,
        config=server.ServerConfig(rounds.total - rounds.done, round_timeout_s),
        strategy=Strategy(rounds, wait_s=wait_s),
        certificates=certificates and tuple(path.read_bytes() for path in certificates),
    )


def join(
    client: FederatedClient, *, address: str, root_certificate: Path | None, wait_s: float
) -> None:
    """Take part until the server says that it is over; a lost server is looked for again.

    Raises:
        RuntimeError: No server for `wait_s` seconds.
    """
    start = flwr("client").start_client
    made = FlowerClient(client)
    lost: float | None = None
    while True:
        rounds = client.finished
        try:
            start(
                server_address=address,
                client=made,
                root_certificates=root_certificate and root_certificate.read_bytes(),
                insecure=root_certificate is None,
            )
            return
        except optional("grpc").RpcError as error:
            if lost is None or client.finished > rounds:
                lost = time.monotonic()
            if time.monotonic() - lost > wait_s:
                raise RuntimeError(
                    f"no server at {address} for {wait_s:g} s. Client {client.name} keeps its "
                    f"state after round {client.finished} in {client.folder}: join again."
                ) from error
            time.sleep(min(1.0, wait_s / 10))


def loopback(address: str) -> bool:
    """Whether an address is of this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")
