"""Averages of evoked responses and their picture."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.text import Text

from neurofm.report import average_evoked, plot_evoked

ANGLE = np.linspace(0, 2 * np.pi, 8, endpoint=False)
PLACES = np.stack([0.08 * np.cos(ANGLE), 0.08 * np.sin(ANGLE), 0.04 + 0.03 * (ANGLE > 3)], 1)
NAMES = ("T7", "T8", "Fz", "Oz", "Cz", "Pz", "C3", "C4")


def trials(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Class 1 has 5 µV at 0.3 s in the last channel; every window has an offset of its own."""
    generator = np.random.default_rng(0)
    y = np.arange(n) % 2
    x = generator.normal(size=(n, 8, 100)) + 50 * generator.normal(size=(n, 8, 1))
    time = -0.2 + np.arange(100) / 100
    x[y == 1, 4] += 5 * np.exp(-0.5 * ((time - 0.3) / 0.05) ** 2)
    return x, y


def averaged(**options: object):
    x, y = trials()
    return average_evoked(
        x, y, classes=["standard", "target"], sfreq=100.0, offset_s=-0.2, **options
    )


def test_average_has_the_planted_peak_without_offsets() -> None:
    found = averaged()
    assert found.n == (30, 30)
    assert found.time[found.peaks(1)[0]] == pytest.approx(0.3, abs=0.03)
    assert found.difference[4].max() == pytest.approx(5, abs=1)
    np.testing.assert_allclose(found.mean[..., :20].mean(-1), 0, atol=1e-9)


def test_interval_covers_the_truth_of_noise_about_95_times_in_100() -> None:
    found = averaged()
    inside = (found.low[0] <= 0) & (found.high[0] >= 0)
    assert 0.88 < inside.mean() < 1


def test_interval_is_over_people_where_there_are_three() -> None:
    people = averaged(subject=[i // 10 for i in range(60)])
    assert (people.n, people.unit) == ((6, 6), "people")
    assert averaged(subject=[i // 30 for i in range(60)]).unit == "windows"


def test_picture_names_channels_classes_and_moments() -> None:
    figure = plot_evoked(averaged(), names=NAMES, position=PLACES, title="Toy, 1 person", maps=2)
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert {"Cz", "standard (30 windows)", "target - standard, µV", "Toy, 1 person"} <= set(texts)
    assert len([text for text in texts if text.endswith(" ms") and text[0].isdigit()]) == 2
    without = plot_evoked(averaged(), names=NAMES, title="Toy", channels=["Cz"])
    assert len(without.axes) == 1


def test_wrong_input_is_named() -> None:
    x, y = trials()
    with pytest.raises(ValueError, match=r"by class \{'a': 60, 'b': 0\}"):
        average_evoked(x, y * 0, classes=["a", "b"], sfreq=100.0, offset_s=0.0)
    with pytest.raises(ValueError, match="no channel POz"):
        plot_evoked(averaged(), names=NAMES, title="Toy", channels=["POz"])
