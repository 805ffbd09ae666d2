"""What a run leaves when it goes wrong: an error that says where, and the last good checkpoint."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from neurofm.batch import Batch, Embedding
from neurofm.cards import configured
from neurofm.cli.run_folder import WholeCheckpoints
from neurofm.tasks import Decode, Task
from neurofm.tasks.guard import Guard, not_finite

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")


@configured
class Spread(nn.Module):
    """Standard deviation of each channel; looks at nothing else and refuses nothing."""

    dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def encode(self, batch: Batch) -> Embedding:
        tokens = (batch.x.std(-1) / 20 * self.scale).unsqueeze(1)
        return Embedding(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


@configured
class Strict(Spread):
    """A model that refuses such samples by itself, and does not know whose they are."""

    def encode(self, batch: Batch) -> Embedding:
        if not bool(batch.x.isfinite().all()):
            raise ValueError("Strict: NaN in the batch.")
        return super().encode(batch)


@pytest.fixture
def data(small: Any) -> Any:
    data = small.data(labels=["left_hand", "right_hand"], window_s=2.0, batch_size=4)
    data.setup()
    return data


def fit(task: Task, data: Any, folder: Path, **changes: Any) -> None:
    keep = ModelCheckpoint(
        folder, "last", every_n_train_steps=1, enable_version_counter=False, save_top_k=1
    )
    arguments: dict[str, Any] = {"max_epochs": 1, "limit_val_batches": 0} | changes
    lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep],
        plugins=[WholeCheckpoints()],
        **arguments,
    ).fit(task, datamodule=data)


def spoil(data: Any, step: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """NaN in one window of a training step; its name."""
    index = int(data.train_dataloader().plan(0)[step][1])
    read = data.windows.batch

    def batch(indices: Any) -> Batch:
        made = read(indices)
        rows = (torch.as_tensor(indices) == index).nonzero().flatten()
        made.x[rows, 2, 5] = torch.nan
        return made

    monkeypatch.setattr(data.windows, "batch", batch)
    start = data.windows.start[index] / 64
    recording = data.windows.entries[int(data.windows.recording[index])].recording.id
    return f"{recording} at {start:g} s"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Spread, r"Decode: the loss of step 3 is NaN .* samples of {}\. "),
        (Strict, r"windows: {}\."),
    ],
)
def test_nan_samples_stop_a_run_and_are_named(
    model: type[Spread], message: str, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = spoil(data, 3, monkeypatch)
    with pytest.raises(ValueError, match=message.format(name)):
        fit(Decode(model(), n_outputs=2), data, tmp_path)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 3
    assert not_finite(kept["state_dict"]) == []


def test_a_run_that_diverges_is_told_from_one_with_bad_samples(data: Any, tmp_path: Path) -> None:
    @configured
    class Explodes(Spread):
        def encode(self, batch: Batch) -> Embedding:
            found = super().encode(batch)
            return Embedding(found.tokens * (torch.inf if self.scale[0] != 1 else 1), found.mask)

    with pytest.raises(ValueError, match=r"loss of step 1 .* but the samples are not .*than 0\.5"):
        fit(Decode(Explodes(), n_outputs=2, lr=0.5), data, tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1


def test_weights_that_are_no_numbers_do_not_replace_a_checkpoint(data: Any, tmp_path: Path) -> None:
    @configured
    class Breaks(Decode):
        """The gradient is NaN although the loss is not, as that of sqrt at 0."""

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            if self.global_step == 2:
                self.model.scale.grad.fill_(torch.nan)

    with pytest.raises(
        ValueError, match=r"model\.scale hold NaN .* step 3; the earlier checkpoint"
    ):
        fit(Breaks(Spread(), n_outputs=2), data, tmp_path)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 2 and not_finite(kept["state_dict"]) == []


def test_a_full_disk_in_mid_run_leaves_the_checkpoint_before(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, iter(range(100))

    def full(content: Any, file: Any) -> None:
        if next(calls) < 2:
            save(content, file)
            return
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        fit(Decode(Spread(), n_outputs=2), data, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def in_child(act: Callable[[], None], limit_s: float = 60) -> int:
    """Run in a forked process that can be killed; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(int(limit_s))
            act()
        finally:
            os._exit(3)
    return os.waitpid(child, 0)[1]


def test_a_writer_killed_by_the_system_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    file, writer = tmp_path / "last.ckpt", WholeCheckpoints()
    writer.save_checkpoint({"step": 1}, file)

    def killed() -> None:
        def half(content: Any, opened: Any) -> None:
            opened.write(b"half")
            opened.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = half
        writer.save_checkpoint({"step": 2}, file)

    def too_large() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            writer.save_checkpoint({"step": 3, "weights": torch.zeros(10_000)}, file)
        except (OSError, RuntimeError):
            os._exit(7)

    assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL
    assert torch.load(file) == {"step": 1}
    assert os.waitstatus_to_exitcode(in_child(too_large)) == 7
    assert torch.load(file) == {"step": 1}
    writer.save_checkpoint({"step": 4}, file)
    assert torch.load(file) == {"step": 4}


def a_batch() -> Batch:
    none, place = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, 3)
    return Batch(
        x=torch.zeros(1, 1, 4),
        channel_mask=none == 0,
        kind=none,
        position=place,
        orientation=place,
        has_position=none == 1,
        sfreq=64.0,
        onset=torch.zeros(1, dtype=torch.float64),
        subject=none[0],
        recording=none[0],
    )


def failures() -> tuple[Guard, list[int]]:
    seen: list[int] = []
    return Guard(lambda step, batch: seen.append(step)), seen


def losses(device: str) -> list[Tensor]:
    return [torch.tensor(value, device=device) for value in (1.0, torch.nan, 2.0)]


def test_a_guard_judges_at_once_where_that_costs_nothing() -> None:
    guard, seen = failures()
    for step, loss in enumerate(losses("cpu")):
        guard.watch(loss, a_batch(), step)
        assert seen == [1][:step]


@pytest.mark.gpu
def test_a_guard_judges_one_step_later_on_an_accelerator() -> None:
    guard, seen = failures()
    first, bad, last = losses("cuda")
    guard.watch(first, a_batch(), 0)
    guard.watch(bad, a_batch(), 1)
    assert seen == []
    guard.watch(last, a_batch(), 2)
    assert seen == [1]
    guard.watch(bad, a_batch(), 3)
    guard.close()
    assert seen == [1, 3]
