"""Small trainings in one process or several, to be compared with each other and to be killed.

`python training_runs.py FOLDER NAME...` imports everything once and forks the processes of each
run. What a process saw lies in FOLDER/NAME-RANK.pt: losses, windows and the state at the end.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from training_tasks import equality_task, make_data, resume_task

from neurofm.cli.run_folder import WholeCheckpoints
from neurofm.data import BrainData
from neurofm.tasks import Task

LIMIT_S = 240.0  # of one run; its processes are killed then
# Now and then two processes never find each other; a run that has not begun by then starts again.
BEGIN_S, TRIES = 60.0, 3


class Watch(Callback):
    """Notes losses and windows of the training steps; may end the process after one of them."""

    def __init__(self, die_after: int | None) -> None:
        self.die_after = die_after
        self.losses: list[float] = []
        self.windows: list[list[tuple[int, float]]] = []
        self.trained: list[str] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        reset_seed()  # as Lightning does where there are several processes

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.trained = [name for name, value in pl_module.named_parameters() if value.requires_grad]
        Path(os.environ["RUN_HAS_BEGUN"]).touch()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        pairs = zip(batch.recording.tolist(), batch.onset.tolist(), strict=True)
        self.windows.append(list(pairs))
        if trainer.global_step == self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)


def train(
    task: Task,
    data: BrainData,
    world: int,
    *callbacks: Callback,
    die_after: int | None = None,
    resume: Path | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Losses, windows, scores and the state at the end."""
    watch = Watch(die_after)
    several: dict[str, Any] = {"strategy": "ddp", "devices": world} if world > 1 else {"devices": 1}
    arguments: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": bool(callbacks),
        "plugins": [WholeCheckpoints()],
        "num_sanity_val_steps": 0,
    }
    trainer = lightning.Trainer(callbacks=[watch, *callbacks], **arguments | several | changes)
    trainer.fit(task, datamodule=data, ckpt_path=resume)
    return {
        "losses": watch.losses,
        "windows": watch.windows,
        "scores": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "state": {name: value.clone() for name, value in task.state_dict().items()},
        "trained": watch.trained,
    }


def run(name: str, world: int, folder: Path) -> dict[str, Any]:
    """One run, in one of its processes. NAME is of the form KIND.TASK.WORLD[.PART]."""
    kind, task_name, _, *part = name.split(".")
    lightning.seed_everything(5, verbose=False)
    if kind == "equal":
        task, data = equality_task(task_name, folder)
        options = {"max_steps": 4, "max_epochs": 2, "limit_val_batches": 2, "val_check_interval": 2}
        return train(task, data, world, **options)
    task, data = resume_task(task_name, folder)
    kept = folder / f"{task_name}.{world}"
    # Checkpoints after steps 3 and 6 of 8; the process dies after step 5, in the second epoch.
    keep = ModelCheckpoint(kept, "{step}", every_n_train_steps=3, save_top_k=-1)
    epochs = {"max_epochs": 2, "limit_val_batches": 1}
    if part == ["rest"]:
        return train(task, data, world, resume=kept / "step=3.ckpt", **epochs)
    return train(task, data, world, keep, die_after=5 if part == ["killed"] else None, **epochs)


# Processes


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def start(name: str, rank: int, world: int, port: int, folder: Path) -> int:
    """Fork a process that takes part in a run; its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        with open(folder / f"{name}-{rank}.log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.environ["RUN_HAS_BEGUN"] = str(begun(name, rank, folder))
        if world > 1:
            os.environ |= {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(world),
                "NODE_RANK": "0",
                "LOCAL_RANK": str(rank),
            }
        torch.save(run(name, world, folder), folder / f"{name}-{rank}.pt")
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def begun(name: str, rank: int, folder: Path) -> Path:
    """Exists once a process of a run trains."""
    return folder / f"{name}-{rank}.begun"


def wait(processes: list[int], marks: list[Path]) -> bool:
    """Until all have ended; those that have not in time are killed. Whether all had begun."""
    left, started = set(processes), time.monotonic()
    while left:
        left -= {process for process in left if os.waitpid(process, os.WNOHANG)[0]}
        passed = time.monotonic() - started
        if passed > LIMIT_S or (passed > BEGIN_S and not all(mark.exists() for mark in marks)):
            break
        time.sleep(0.005)
    for process in left:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return all(mark.exists() for mark in marks)


def main(folder: Path, names: list[str]) -> None:
    # Thread pools do not survive a fork.
    torch.set_num_threads(1)
    make_data(folder, mixed=True).prepare_data()
    for name in names:
        world = int(name.split(".")[2])
        marks = [begun(name, rank, folder) for rank in range(world)]
        for _ in range(TRIES):
            port = free_port()
            if wait([start(name, rank, world, port, folder) for rank in range(world)], marks):
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
