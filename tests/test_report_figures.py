"""Figures: axes with units, centred maps, heads the right way round."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from neurofm import report as report_module
from neurofm.report import (
    plot_band_error,
    plot_code_usage,
    plot_confusion,
    plot_curves,
    plot_layer_scores,
    plot_rdm,
    plot_reconstruction,
    plot_scores,
    plot_spectrum,
    plot_topographies,
    plot_topography,
)
from neurofm.types import RDM, Result


def draw_all() -> dict[str, Figure]:
    generator = np.random.default_rng(0)
    position = generator.normal(size=(20, 3))
    position *= 0.09 / np.linalg.norm(position, axis=1, keepdims=True)
    position[:, 2] = np.abs(position[:, 2]) + 0.04
    results = [
        Result("a", 0.7, low=0.6, high=0.8, chance=0.5, detail={"values": [0.6, 0.8]}),
        Result("b", 0.5, chance=0.5),
    ]
    layers = [
        Result(
            f"{layer} ~ EEG",
            0.1,
            unit="rho-a",
            low=0.0,
            high=0.3,
            n=4,
            detail={"layer": layer, "reference": "EEG", "null_low": -0.1, "null_high": 0.1},
        )
        for layer in ("blocks.0", "blocks.1")
    ]
    rdm = RDM(generator.random(6), ("a", "b", "c", "d"), "correlation")
    signed = RDM(generator.normal(size=6), ("a", "b", "c", "d"), "crossnobis")
    x = generator.normal(size=(3, 400))
    bands = {"mu": 0.2, "beta": 0.7}
    return {
        "topography": plot_topography(generator.normal(size=20), position, title="t", unit="V"),
        "topographies": plot_topographies(
            {"left": generator.random(20), "right": generator.random(20)},
            position,
            unit="logit",
            names=[str(i) for i in range(20)],
            mark=("3",),
        ),
        "curves": plot_curves(
            {"train": ([0, 1], [2.0, 1.0])}, title="t", ylabel="loss (nats)", references={"h": 1.5}
        ),
        "scores": plot_scores(results, title="t"),
        "confusion": plot_confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], title="t"),
        "reconstruction": plot_reconstruction(x, x, 100.0, names=["C3", "Cz", "C4"], title="t"),
        "band": plot_band_error({"model": bands, "control": bands}, title="t"),
        "spectrum": plot_spectrum({"x": x}, 100.0, title="t", bands={"mu": (8.0, 13.0)}),
        "codes": plot_code_usage(generator.integers(0, 9, size=(2, 16)), title="t"),
        "rdm": plot_rdm(rdm, title="t", groups=["x", "y", "x", "y"]),
        "signed rdm": plot_rdm(signed, title="t"),
        "layers": plot_layer_scores(layers, title="t"),
    }


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    return draw_all()


def test_every_figure_labels_its_axes_with_units(figures: dict[str, Figure]) -> None:
    for name, drawn in figures.items():
        if "topograph" in name:
            assert drawn.axes[-1].get_ylabel() in ("V", "logit"), name
            continue
        first = drawn.axes[0]
        assert first.get_xlabel(), name
        assert first.get_ylabel() or name == "scores", name
    assert "(s)" in figures["reconstruction"].axes[0].get_xlabel()
    assert figures["spectrum"].axes[0].get_ylabel() == "power density (µV²/Hz)"


def test_plotting_changes_no_global_state(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plot_scores([Result("a", 0.5)], title="t")
    assert dict(mpl.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_signed_maps_are_centred_on_zero(figures: dict[str, Figure]) -> None:
    low, high = figures["topography"].axes[0].images[0].get_clim()
    assert low == pytest.approx(-high)


def test_sensors_without_position_are_left_out_and_said() -> None:
    generator = np.random.default_rng(0)
    position = generator.normal(size=(8, 3)) * 0.05
    position[:2] = np.nan
    drawn = plot_topography(np.ones(8), position, title="t", unit="V")
    assert drawn.get_supxlabel().startswith("2 sensors")
    position[:5] = np.nan
    with pytest.raises(ValueError, match="3 of 8 sensors"):
        plot_topography(np.ones(8), position, title="t", unit="V")


def test_sensors_at_one_place_are_averaged() -> None:
    from neurofm.figures import topography

    position = np.array([[0.0, 0, 0.1], [0.1, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, -0.1, 0]])
    index, cluster = topography._places(position)
    assert index.tolist() == [0, 1, 3, 4]
    values = topography._average(np.array([1.0, 2.0, 4.0, 5.0, 6.0]), cluster, 4)
    assert values.tolist() == [1.0, 3.0, 5.0, 6.0]


def test_left_is_left_and_the_nose_is_up() -> None:
    from neurofm.figures import topography

    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = 0.09 * np.column_stack([np.cos(angles), np.sin(angles), np.full(12, 0.3)])
    place = topography.project(np.vstack([ring, [[0, 0, 0.1]]]))
    assert place[0, 0] > 0.5  # right ear
    assert place[3, 1] > 0.5  # nose
    assert np.abs(place[-1]).max() < 0.2


def test_disagreeing_arguments_are_refused() -> None:
    x = np.zeros((2, 10))
    with pytest.raises(ValueError, match="1 names"):
        plot_reconstruction(x, x, 100.0, names=["C3"], title="t")
    with pytest.raises(ValueError, match="no curve"):
        plot_curves({}, title="t", ylabel="loss")


def test_the_public_names_exist() -> None:
    assert all(hasattr(report_module, name) for name in report_module.__all__)
