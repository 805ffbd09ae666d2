from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import lightning
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F

from neurofm import cards, cli
from neurofm.batch import Contexts
from neurofm.data import (
    FolderVoxels,
    MeasuredVoxels,
    SimulatedVoxels,
    SyntheticVoxels,
    VoxelData,
    VoxelLoader,
    read_people,
    read_phrases,
    shared_stimuli,
    shown_apart,
    write_person,
)
from neurofm.data.stimulus_table import StimulusTable
from neurofm.evaluate import context_curve
from neurofm.io import TunedWorld, load_context_encoder
from neurofm.io.checkpoint import newest_checkpoint
from neurofm.models import BraInCoRL
from neurofm.tasks import EncodeInContext, weight_loss
from neurofm.types import Recording, Responses, Sensors
from neurofm.units import Kind

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*many workers", "ignore:.*dirpath", "ignore:You are trying to"
)
SIZES = {"dim": 16, "depth": 1, "hidden": 16, "heads": 2, "n_registers": 1, "dropout": 0}


def unit(n: int, features: int = 12, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, features)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def small_data(**options) -> VoxelData:
    sources = [SimulatedVoxels(12, n_stimuli=60, stimuli_seed=i) for i in (1, 2)]
    given = {"context": (4, 12), "n_query": 8, "batch_size": 6, "steps_per_epoch": 4}
    return VoxelData(*sources, **{**given, "held_steps": 2, **options})


def trainer(folder, **options) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, num_sanity_val_steps=0, **quiet, **options
    )


def person(values: np.ndarray, names: list[str], subject: str = "1") -> Responses:
    sensors = Sensors.of_kind([f"v{i}" for i in range(values.shape[1])], Kind.BOLD, frame="mni")
    runs = ("1",) * len(names)
    return Responses(
        values.astype(np.float32), tuple(names), runs, sensors, Recording("toy", subject)
    )


# Where voxels come from


def test_simulated_voxels_are_what_their_weights_say() -> None:
    source = SimulatedVoxels(16, n_stimuli=400)
    drawn = source.draw(200, 300, rng=np.random.default_rng(0))
    predicted = np.einsum("vif,vf->vi", drawn.features, drawn.weights[:, :-1])
    error = (drawn.responses - predicted - drawn.weights[:, -1:]).var(1)
    assert np.linalg.norm(drawn.features, axis=2) == pytest.approx(1, abs=1e-4)
    assert drawn.responses.var(1).mean() == pytest.approx(1, abs=0.05)
    assert error.mean() == pytest.approx(1 - 0.35, abs=0.05)  # 0.1 to 0.6 can be explained
    assert len(np.unique(drawn.features[0], axis=0)) == 300


def test_synthetic_voxels_have_the_scale_and_axes_asked_for(tmp_path) -> None:
    table = StimulusTable(tuple(f"image-{i}" for i in range(80)), 3 * unit(80))
    table.write(tmp_path / "features.safetensors")
    sides = [
        SyntheticVoxels(tmp_path / "features.safetensors", n_axes=3, explainable=(1, 1), rows=rows)
        for rows in ((0, 0.75), (0.75, 1))
    ]
    drawn = sides[0].draw(50, 60, rng=np.random.default_rng(0))
    assert drawn.responses.var(1).mean() == pytest.approx(1, abs=0.15)
    assert np.linalg.matrix_rank(drawn.weights[:, :-1].astype(float), tol=1e-3) == 3
    assert [len(side.stimuli) for side in sides] == [60, 20]
    assert not {*sides[0].stimuli} & {*sides[1].stimuli}
    again = sides[1].draw(50, 20, rng=np.random.default_rng(0)).weights
    assert np.linalg.matrix_rank(np.vstack([drawn.weights, again])[:, :-1], tol=1e-3) == 3


def test_measured_voxels_are_averaged_over_repeats_and_z_scored() -> None:
    names = ["a", "b", "c", "a", "d"]
    values = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    values[:, 1] = 2.0
    values[2, 3] = np.nan
    features = dict(zip("abcd", unit(4), strict=True))
    source = MeasuredVoxels([person(values, names)], features)
    mean = np.stack([values[[0, 3]].mean(0), values[1], values[2], values[4]])[:, [0, 2]]
    drawn = source.draw(6, 4, rng=np.random.default_rng(0))
    assert (len(source), source.n_dropped, source.n_stimuli) == (2, 2, 4)
    table = np.stack([features[name] for name in "abcd"])
    expected = (mean - mean.mean(0)) / mean.std(0)
    for voxel in range(6):
        where = [int(np.abs(table - x).sum(1).argmin()) for x in drawn.features[voxel]]
        own = [expected[where, i] for i in (0, 1)]
        assert min(np.abs(drawn.responses[voxel] - y).max() for y in own) < 1e-5


PARTS = ("features", "responses", "held_features", "held_responses")


def voxel_folder(folder):
    """Two people: both saw a to f, one g to n, the other o to v."""
    rng = np.random.default_rng(0)
    for subject, own in (("1", "ghijklmn"), ("2", "opqrstuv")):
        names = [*"abcdef", *own, *"abc"]
        write_person(person(rng.standard_normal((17, 4)), names, subject), folder)
    vectors = 2 * unit(22)
    StimulusTable(tuple("abcdefghijklmnopqrstuv"), vectors).write(folder / "embeddings.safetensors")
    return folder


def test_people_of_a_folder_are_split_by_what_all_have_seen(tmp_path, monkeypatch) -> None:
    people, features = read_people(voxel_folder(tmp_path / "voxels"))
    assert [p.recording.subject for p in people] == ["1", "2"]
    assert np.linalg.norm(features["a"]) == pytest.approx(1, abs=1e-6)
    assert people[0].stimulus[:3] == ("a", "b", "c") and people[0].sensors.frame == "mni"
    assert shared_stimuli(people) == (set("abcdef"), set("ghijklmnopqrstuv"))
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path))
    own, shared = (FolderVoxels("voxels", subjects=["2"], shared=s) for s in (False, True))
    assert set(own.stimuli) == set("opqrstuv") and set(shared.stimuli) == set("abcdef")
    apart = shown_apart(people[0], features, set("abcdef"))
    x, y, held_x, held_y = (getattr(apart, name) for name in PARTS)
    assert [part.shape for part in (x, y, held_x, held_y)] == [(8, 12), (8, 4), (6, 12), (6, 4)]
    assert y.mean(0) == pytest.approx(0, abs=1e-6) and y.std(0) == pytest.approx(1, abs=1e-5)
    assert apart.kept.all() and read_phrases("voxels") == {}
    assert abs(held_y.mean(0)).max() > 0.01  # by the statistics of the first part


def test_folders_that_lack_something_say_what(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="NEUROFM_DATA"):
        read_people("nowhere")
    folder = voxel_folder(tmp_path / "voxels")
    with pytest.raises(FileNotFoundError, match="no responses of 3"):
        read_people(folder, ["3"])
    with pytest.raises(ValueError, match="no responses of 3"):
        FolderVoxels(folder, subjects=["3"])
    people, features = read_people(folder)
    with pytest.raises(ValueError, match="both parts"):
        shown_apart(people[0], features, ())
    (folder / "sub-2.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="write_person"):
        read_people(folder)
    (folder / "embeddings.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="Compute an embedding"):
        read_people(folder)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MeasuredVoxels([], {}), "nobody"),
        (lambda: MeasuredVoxels([person(np.ones((2, 1)), ["a", "b"])], {"a": unit(1)[0]}), "'b'"),
        (
            lambda: MeasuredVoxels(
                [person(np.ones((2, 1)), ["a", "b"])], dict(zip("ab", unit(2), strict=True))
            ),
            "constant",
        ),
        (
            lambda: MeasuredVoxels(
                [person(np.eye(2), ["a", "b"])], dict(zip("ab", 2 * unit(2), strict=True))
            ),
            "lengths",
        ),
        (lambda: SyntheticVoxels(unit(9), rows=(0.5, 0.2)), "fractions"),
        (lambda: small_data(context=(4, 60)), "Shorten"),
        (lambda: small_data(context=(9, 4)), "do not shrink"),
        (lambda: TunedWorld(4), "at least"),
    ],
)
def test_sources_that_cannot_be_say_why(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_the_same_stimuli_in_training_and_validation_are_refused() -> None:
    source = SimulatedVoxels(12, n_stimuli=60)
    with pytest.raises(ValueError, match="60 stimuli of the validate side are in training"):
        VoxelData(source, source, context=(4, 12), n_query=8)


# The loader


def test_batches_depend_on_seed_epoch_and_step_alone() -> None:
    first, again = (list(small_data().loader("train")) for _ in range(2))
    sizes = {batch.stimulus.shape[1] for batch in first}
    assert all(torch.equal(a.y, b.y) for a, b in zip(first, again, strict=True))
    assert len(sizes) > 1 and sizes <= set(range(4, 13))
    loader = small_data().loader("train")
    list(loader)
    assert not torch.equal(next(iter(loader)).y, first[0].y)
    held = small_data().loader("validate")
    assert torch.equal(list(held)[1].y, list(held)[1].y)


def test_a_loader_goes_on_behind_its_last_batch() -> None:
    whole = [batch for loader in [small_data().loader("train")] for _ in (1, 2) for batch in loader]
    loader, other = (small_data().loader("train") for _ in range(2))
    list(loader)
    running = iter(loader)
    next(running)
    other.load_state_dict(loader.state_dict())
    rest = list(other)
    assert len(rest) == 3
    assert all(torch.equal(a.y, b.y) for a, b in zip(rest, whole[5:], strict=True))
    assert isinstance(loader, VoxelLoader) and len(loader) == 4


# The task


def test_weight_loss_is_zero_for_the_true_weights_alone() -> None:
    known = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    assert float(weight_loss(known, known)) == pytest.approx(0, abs=1e-6)
    assert float(weight_loss(2 * known, known, l2=0)) == pytest.approx(0, abs=1e-6)
    assert float(weight_loss(-known, known, l2=0)) == pytest.approx(2, abs=1e-5)
    assert float(weight_loss(known + 1, known)) > 1


def test_training_lowers_the_loss_and_its_rate_falls_with_validation(tmp_path) -> None:
    torch.manual_seed(0)
    task = EncodeInContext(BraInCoRL(12, **SIZES), lr=5e-3, patience=0, cooldown=0, factor=0.5)
    after = trainer(tmp_path, max_epochs=4, enable_checkpointing=False)
    data = small_data(steps_per_epoch=40, batch_size=24)
    with torch.no_grad():
        before = [float(F.mse_loss(task(b), b.y)) for b in data.loader("validate")]
    after.fit(task, data)
    found = after.callback_metrics
    assert float(found["validate/loss"]) < np.mean(before) - 0.1
    assert float(found["validate/explained_variance"]) > 0
    assert float(found["validate/weight_loss"]) < 1.5
    assert after.optimizers[0].param_groups[0]["weight_decay"] == 0.1


def test_a_resumed_run_takes_the_same_steps(tmp_path) -> None:
    def fitted(**options) -> EncodeInContext:
        torch.manual_seed(0)
        task = EncodeInContext(BraInCoRL(12, **SIZES), lr=1e-3)
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=6, save_top_k=-1)
        run = trainer(tmp_path, max_epochs=2, callbacks=[keep])
        run.fit(task, small_data(), **options)
        return task

    whole = fitted()
    rest = fitted(ckpt_path=tmp_path / "step=6.ckpt", weights_only=True)  # in the second epoch
    for a, b in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(a, b)


def test_features_of_another_number_and_responses_that_are_no_numbers(tmp_path) -> None:
    task = EncodeInContext(BraInCoRL(16, **SIZES))
    with pytest.raises(ValueError, match="16 features, the data have 12"):
        trainer(tmp_path, max_steps=1).fit(task, small_data())
    batch = small_data().loader("train").batch(0, 0)
    bad = replace(batch, y=torch.full_like(batch.y, torch.nan))
    with pytest.raises(ValueError, match="so are responses"):
        EncodeInContext(BraInCoRL(12, **SIZES)).training_step(bad, 0)
    assert isinstance(bad, Contexts)


def test_the_recipe_runs_and_its_run_is_loaded(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = cards.read("recipes", "encode_in_context_simulated")
    recipe["trainer"] |= {"max_epochs": 1, "limit_train_batches": 2, "accelerator": "cpu"}
    recipe["data"]["init_args"] |= {"steps_per_epoch": 2, "held_steps": 1, "batch_size": 2}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    assert cli.main(["fit", "--config", "mine.yaml"]) == 0, capsys.readouterr().err
    loaded = load_context_encoder(newest_checkpoint(tmp_path / "runs" / "mine"))
    assert loaded.n_features == 48


# The curve


def test_the_curve_has_disjoint_contexts_and_a_baseline() -> None:
    world = TunedWorld(12)
    someone = world.person(6, seed=3)
    features, held = world.embed(60, seed=1), world.embed(30, seed=2)
    given = (features, someone.respond(features, seed=1), held, someone.respond(held, seed=2))
    torch.manual_seed(0)
    model = BraInCoRL(12, **SIZES).eval()
    scores = context_curve(model, *given, sizes=(4, 12), n_slices=5, known=someone.weights)
    assert [score.size for score in scores] == [4, 12]
    assert scores[1].in_context.shape == scores[1].ridge.shape == (5, 36)
    assert np.isnan(scores[0].ridge).all() and np.isfinite(scores[1].ridge).all()
    inner, outer = scores[1].results()
    assert outer.low < outer.value < outer.high and inner.n == 36
    assert (np.abs(scores[1].cosine) <= 1).all()
    with pytest.raises(ValueError, match="need 100, there are 60"):
        context_curve(model, *given, sizes=(20,))
    with pytest.raises(ValueError, match="in the contexts too"):
        context_curve(model, *given[:2], given[0][:9], given[1][:9], sizes=(4,))


@pytest.mark.slow
def test_in_context_beats_ridge_and_grows_with_the_context(tmp_path) -> None:
    """The acceptance of the specification, on a new person whose voxels have a structure."""
    torch.manual_seed(0)
    recipe = cards.read("recipes", "encode_in_context_simulated")
    arguments = recipe["model"]["init_args"]
    model = load_context_encoder(arguments.pop("model")["init_args"]["name"])
    task = EncodeInContext(model, **arguments)
    options = recipe["data"]["init_args"]
    sources = {
        side: SimulatedVoxels(**options.pop(side)["init_args"]) for side in ("train", "test")
    }
    options.pop("validate")
    data = VoxelData(sources["train"], sources["test"], **options)
    trainer(tmp_path, max_epochs=6, gradient_clip_val=1.0, enable_checkpointing=False).fit(
        task, data
    )
    world = TunedWorld()
    someone, features, held = (
        world.person(16, seed=7),
        world.embed(1000, seed=9),
        world.embed(300, seed=10),
    )
    scores = context_curve(
        task.model.eval(),
        features,
        someone.respond(features, seed=1),
        held,
        someone.respond(held, seed=2),
        sizes=(10, 20, 50, 100, 200),
    )
    inner, outer = zip(*(score.results() for score in scores), strict=True)
    values = [result.value for result in inner]
    assert all(a < b for a, b in pairwise(values))
    assert all(a.low > b.high for a, b in zip(inner[:4], outer[:4], strict=True))  # up to 100
