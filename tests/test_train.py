"""`neurofm fit | validate | test | predict`: recipes, run folders, errors in one line, kills."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from neurofm import cards, cli
from neurofm.cli import train
from neurofm.cli.run_folder import WholeCheckpoints, versions
from neurofm.io import load_model
from neurofm.report import read_run
from neurofm.tasks import Task

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")
LABELS = ["left_hand", "right_hand"]


def recipe(small, file: Path, *, trainer: Any = None, data: Any = None, **model: Any) -> Path:
    """A recipe that fine-tunes the small model for an epoch of three steps."""
    decode = {
        "model": {
            "class_path": "neurofm.load_model",
            "init_args": {"name": str(small.folder / "model.yaml")},
        },
        "n_outputs": 2,
        "lr": 1.0e-3,
    }
    about = {"labels": LABELS, "window_s": 2.0, "offset_s": 0.5}
    content = {
        "seed_everything": 0,
        "trainer": {"max_epochs": 1, "accelerator": "cpu"} | (trainer or {}),
        "model": {"class_path": "neurofm.tasks.Decode", "init_args": decode | model},
        "data": {
            "class_path": "neurofm.data.BrainData",
            "init_args": small.data_arguments(**about | (data or {})),
        },
    }
    file.write_text("# Does it run?\n" + yaml.safe_dump(content), encoding="utf-8")
    return file


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def one_line(err: str) -> str:
    """The error, which must be the last line and the only one that is not news."""
    last = err.strip().splitlines()[-1]
    assert last.startswith("neurofm: error: ") and "Traceback" not in err and "Union" not in err
    return last


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory) -> Iterator[Path]:
    """A folder in which `mine.yaml` was fitted once."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        file = recipe(small, folder / "mine.yaml")
        assert cli.main(["fit", "--config", str(file)]) == 0
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Run folders


def test_a_run_leaves_configuration_metrics_record_and_checkpoints(finished):
    folder = finished / "runs" / "mine" / "version_0"
    assert {file.name for file in folder.glob("checkpoints/*")} == {"best.ckpt", "last.ckpt"}
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] == 0
    rows = table(folder / "metrics.csv")
    assert len([row for row in rows if row["train/loss_step"]]) == 3
    assert [row for row in rows if row["validate/balanced_accuracy"]]
    record = json.loads((folder / "run.json").read_text())
    assert {"python", "torch", "lightning", "neurofm"} <= set(record["versions"])
    assert record["seed"] == 0
    assert record["split"]["train"] == [f"corpus_sub-001_task-imagery_run-0{i}" for i in (1, 2)]
    assert record["split"]["test"][0].startswith("corpus_sub-003")
    assert set(record["metrics"]) >= {"train/loss", "validate/loss", "validate/accuracy"}
    assert record["question"] == "Does it run?" and record["seconds"] > 0
    assert load_model(finished / "runs" / "mine").dim == 16


def test_a_run_leaves_what_it_said_of_every_validation_window(finished):
    folder = finished / "runs" / "mine" / "version_0"
    said = json.loads((folder / "predictions-validate.json").read_text())
    record = json.loads((folder / "run.json").read_text())
    assert sorted(set(said["recording"])) == record["split"]["validate"]
    moments = set(zip(said["recording"], said["onset"], strict=True))
    assert len(moments) == len(said["y"]) == len(said["p"])
    rows = zip(said["p"], said["y"], strict=True)
    right = [int(p.index(max(p)) == y) for p, y in rows]
    assert np.mean(right) == pytest.approx(record["metrics"]["validate/accuracy"])
    page = read_run(finished / "runs" / "mine")
    assert "Predictions, validate" in [section.title for section in page.sections]


def test_the_saved_configuration_repeats_the_run(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    first = finished / "runs" / "mine" / "version_0"
    code, _, err = run("fit", "--config", first / "config.yaml", capsys=capsys)
    assert code == 0, err
    newest = max((finished / "runs" / "mine").glob("version_*"), key=lambda f: f.stat().st_mtime)
    assert newest != first

    def losses(folder: Path) -> list[str]:
        return [row["train/loss_step"] for row in table(folder / "metrics.csv")]

    assert losses(newest) == losses(first)
    states = [torch.load(f / "checkpoints" / "last.ckpt")["state_dict"] for f in (first, newest)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_screen_shows_the_audit_and_no_advertising(small, here, capsys):
    file = recipe(small, here / "mine.yaml", trainer={"fast_dev_run": True})
    code, out, err = run("fit", "--config", file, capsys=capsys)
    assert code == 0
    assert "split audit: 3 subjects x 2 runs" in err and "0 leaks" in err
    for word in ("litlogger", "TPU", "LightningCLI's args", "module(s) in eval mode"):
        assert word not in out + err


def test_real_warnings_are_kept():
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    train.quiet()
    kept = [
        bool(logger.filter(logger.makeRecord("x", 30, "f", 1, text, (), None)))
        for text in ("TPU available: False", "💡 Tip: buy", "GPU available: True", "Loss is NaN")
    ]
    assert kept == [False, False, True, True]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train.quiet()
        warnings.warn("Found 3 module(s) in eval mode", stacklevel=1)
        warnings.warn("the loss is not finite", stacklevel=1)
    assert [str(item.message) for item in caught] == ["the loss is not finite"]


def test_versions_name_the_commit_of_the_checkout_alone(monkeypatch, tmp_path):
    assert versions()["python"].count(".") == 2
    monkeypatch.setattr("neurofm.cli.run_folder.__file__", str(tmp_path / "a" / "b" / "c.py"))
    subprocess.run(["git", "init", "-q", tmp_path.parent], check=False)
    assert "commit" not in versions()  # installed inside somebody's repository


# After training


def test_runs_go_where_the_trainer_is_told(small, here, capsys):
    file = recipe(small, here / "mine.yaml", trainer={"enable_checkpointing": False})
    folder = here / "elsewhere"
    limits = ["--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 0]
    words = ["fit", "--config", file, "--trainer.default_root_dir", folder, *limits]
    code, out, err = run(*words, capsys=capsys)
    assert code == 0, err
    assert str(folder / "mine" / "version_0") in out
    assert (folder / "mine/version_0/run.json").is_file() and not (here / "runs").exists()


def test_test_and_validate_score_a_checkpoint(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    best = finished / "runs/mine/version_0/checkpoints/best.ckpt"
    record = json.loads((finished / "runs/mine/version_0/run.json").read_text())
    code, _, err = run("validate", "--config", "mine.yaml", "--ckpt_path", best, capsys=capsys)
    assert code == 0, err
    newest = max((finished / "runs/mine").glob("*/run.json"), key=lambda f: f.stat().st_mtime_ns)
    found = json.loads(newest.read_text())["validate"]
    assert found["validate/loss"] == pytest.approx(record["metrics"]["validate/loss"], rel=1e-5)
    assert run("test", "--config", "mine.yaml", "--ckpt_path", best, capsys=capsys)[0] == 0


def test_predict_writes_a_row_per_window(finished, small, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    best = finished / "runs/mine/version_0/checkpoints/best.ckpt"
    code, _, err = run("predict", "--config", "mine.yaml", "--ckpt_path", best, capsys=capsys)
    assert code == 0, err
    (file,) = (finished / "runs" / "mine").glob("*/predictions.csv")
    rows = table(file)
    assert list(rows[0]) == ["recording", "onset_s", "true", "predicted", "p_left_hand",
                             "p_right_hand"]  # fmt: skip
    data = small.data(labels=LABELS, window_s=2.0, offset_s=0.5)
    data.setup()
    task = Task.load_from_checkpoint(best)
    batch = data.windows.batch(data.split.test)
    with torch.no_grad():
        probability = task(batch).softmax(1)
    assert len(rows) == len(data.split.test) == 30
    for row, i, p in zip(rows, data.split.test, probability, strict=True):
        assert row["recording"] == data.rows[i].recording and row["true"] == data.rows[i].label
        assert float(row["onset_s"]) == pytest.approx(data.rows[i].start, rel=1e-4)
        assert float(row["p_left_hand"]) == pytest.approx(float(p[0]), abs=1e-4)
        assert row["predicted"] == LABELS[int(float(row["p_right_hand"]) > 0.5)]


def test_scoring_without_a_checkpoint_says_whose_weights_are_used(small, here, capsys, caplog):
    file = recipe(small, here / "mine.yaml", trainer={"fast_dev_run": True})
    with caplog.at_level(logging.WARNING, logger="neurofm.cli.train"):
        assert run("test", "--config", file, capsys=capsys)[0] == 0
    assert "no --ckpt_path: test uses the weights that the recipe starts from" in caplog.text


# Recipes and errors


@pytest.mark.parametrize("words", [["--config", "NAME"], ["--config=NAME"], ["-c", "NAME"]])
def test_a_shipped_recipe_is_found_by_its_name(words):
    name = cards.names("recipes")[0]
    resolved, found = train.resolve(["fit", *(word.replace("NAME", name) for word in words)])
    assert found == name and resolved[-1].endswith(f"{name}.yaml")


def test_a_recipe_is_printed_in_full(small, here, capsys):
    file = recipe(small, here / "mine.yaml")
    code, out, _ = run("fit", "--config", file, "--print_config", capsys=capsys)
    assert code == 0
    printed = yaml.safe_load(out)
    assert printed["model"]["init_args"]["backbone_lr"] == 0.1
    assert printed["trainer"]["logger"]["init_args"]["name"] == "mine"
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config", "pretrain_simulatd"], "Did you mean pretrain_simulated"),
        (["--config", "none.yaml"], "none.yaml: no such file"),
        (["--config"], "needs the name of a recipe"),
        ([], "required"),
    ],
)
def test_what_is_no_recipe_ends_in_one_line(words, expected, here, capsys):
    code, _, err = run("fit", *words, capsys=capsys)
    assert code == 2 and expected in one_line(err)


def test_a_notebook_is_not_fitted(monkeypatch, capsys):
    monkeypatch.setattr(cards, "path", lambda kind, name: Path("tour.ipynb"))
    code, _, err = run("fit", "--config", "tour", capsys=capsys)
    assert code == 2 and "tour.ipynb is a notebook: `neurofm copy tour`" in one_line(err)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trainer": {"max_epoks": 1}}, "max_epoks"),
        ({"lrr": 1.0}, "lrr"),
        ({"data": {"windov_s": 1.0}}, "windov_s"),
        ({"lr": "fast"}, "lr"),
        ({"data": {"validate": [2]}}, "Got value: 2; Expected a <class 'float'>. Write names that"),
        ({"model": {"class_path": "neurofm.models.Nothing"}}, "Nothing"),
        ({"model": {"class_path": "neurofm.readouts.PooledLinear"}}, "PooledLinear"),
        ({"adapt": {"class_path": "neurofm.tasks.Prob"}}, "attribute 'Prob'. Did you mean Probe?"),
        ({"adapt": "Prob"}, "path string: Prob. Write the whole path of a class"),
        ({"n_outputs": 3}, "n_outputs is 3, but the data have 2 labels"),
        ({"data": {"labels": ["foot"]}}, "'foot'"),
    ],
)
def test_a_mistake_in_a_recipe_is_named_in_one_line(changes, expected, small, here, capsys):
    file = recipe(small, here / "mine.yaml", **changes)
    code, _, err = run("fit", "--config", file, capsys=capsys)
    assert code == 2 and expected in one_line(err)
    assert not list(here.glob("runs/*/*/checkpoints/*"))


def test_a_missing_run_names_the_recipe_to_run_first(small, here, capsys):
    model = {"class_path": "neurofm.load_model", "init_args": {"name": "runs/pretrain_simulated"}}
    file = recipe(small, here / "mine.yaml", model=model)
    code, _, err = run("fit", "--config", file, capsys=capsys)
    assert code == 2
    assert one_line(err) == (
        "neurofm: error: runs/pretrain_simulated: no checkpoint there yet. Run the recipe of that "
        "name first: `neurofm fit --config pretrain_simulated`."
    )


def test_a_wrong_or_damaged_checkpoint_ends_in_one_line(finished, small, here, capsys):
    best = finished / "runs/mine/version_0/checkpoints/best.ckpt"
    (here / "cut.ckpt").write_bytes(best.read_bytes()[:3000])
    content = torch.load(best)
    torch.save(content | {"task": "neurofm.tasks.Pretrain"}, here / "other.ckpt")
    file = recipe(small, here / "mine.yaml")
    for name, expected in {
        "cut.ckpt": "cut.ckpt: not a readable torch file",
        "other.ckpt": "written by neurofm.tasks.Pretrain, not by neurofm.tasks.Decode",
        "none.ckpt": "none.ckpt: no such file",
    }.items():
        code, _, err = run("fit", "--config", file, "--ckpt_path", name, capsys=capsys)
        assert code == 2 and expected in one_line(err)


@pytest.mark.parametrize("off", ["enable_progress_bar", "enable_checkpointing"])
def test_a_recipe_may_switch_off_progress_or_checkpoints(off, small, here, capsys):
    trainer = {off: False, "limit_train_batches": 1, "limit_val_batches": 1}
    file = recipe(small, here / "mine.yaml", trainer=trainer)
    code, _, err = run("fit", "--config", file, capsys=capsys)
    assert code == 0, err
    kept = list(here.glob("runs/mine/version_0/checkpoints/*.ckpt"))
    assert len(kept) == (0 if off == "enable_checkpointing" else 2)


# Kill


def test_a_failed_save_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    writer = WholeCheckpoints()
    writer.save_checkpoint({"step": 1}, tmp_path / "a" / "last.ckpt")

    def full(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        writer.save_checkpoint({"step": 2}, tmp_path / "a" / "last.ckpt")
    assert torch.load(tmp_path / "a" / "last.ckpt") == {"step": 1}
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["last.ckpt"]


@pytest.mark.system
def test_a_killed_run_resumes_from_its_last_checkpoint(small, here, capsys):
    keep = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {
            "filename": "step",
            "every_n_train_steps": 2,
            "save_last": False,
            "enable_version_counter": False,
        },
    }
    trainer = {"max_epochs": 1000, "callbacks": [keep], "enable_progress_bar": False}
    file = recipe(small, here / "mine.yaml", trainer=trainer)
    code = "import sys; from neurofm.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "fit", "--config", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    last = here / "runs/mine/version_0/checkpoints/step.ckpt"
    seen: set[int] = set()
    deadline = time.monotonic() + 200
    while len(seen) < 4:  # saved over an earlier one several times
        assert process.poll() is None, process.communicate()[1].decode()[-2000:]
        assert time.monotonic() < deadline
        if last.exists():
            seen.add(last.stat().st_mtime_ns)
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    for found in last.parent.glob("*.ckpt"):
        assert isinstance(Task.load_from_checkpoint(found), Task)
    content = torch.load(last, weights_only=True)
    step, epoch = content["global_step"], content["epoch"]
    assert step % 2 == 0 and step >= 2
    words = ["fit", "--config", file, "--ckpt_path", last, "--trainer.max_epochs", epoch + 2]
    code, _, err = run(*words, capsys=capsys)
    assert code == 0, err
    rows = table(here / "runs/mine/version_1/metrics.csv")
    steps = [int(row["step"]) for row in rows if row["train/loss_step"]]
    assert steps == list(range(step, 3 * (epoch + 2)))
