"""Is a recording familiar: coverage, Mahalanobis distance and nearest neighbours side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neurofm.interpret.monitoring.coverage import CoverageDetector, Influence
from neurofm.interpret.monitoring.detection import Detections, detection
from neurofm.interpret.monitoring.distances import (
    mahalanobis_familiarity,
    neighbour_familiarity,
)


def compare_familiarity(
    train: Mapping[str, Influence],
    inside: Mapping[str, Influence],
    outside: Mapping[str, Influence],
    *,
    detector: CoverageDetector,
    labels: Sequence[Any] | np.ndarray | None = None,
    k: int = 10,
    layer: str | None = None,
    inside_groups: Sequence[Any] | np.ndarray | None = None,
    outside_groups: Sequence[Any] | np.ndarray | None = None,
) -> Detections:
    """Three scores on the same samples, each with AUROC, its interval over groups, and FPR95.

    Args:
        train: What is familiar, by layer.
        inside: Familiar samples that nothing was fitted on.
        outside: The recordings in question.
        detector: From `choose_coverage`; its settings are never chosen on `outside`.
        labels: Classes of the familiar samples, for the Mahalanobis distance.
        k: Neighbour whose distance counts.
        layer: For both distances; the last of the detector's if not given.
        inside_groups: Recording or subject of each familiar sample.
        outside_groups: Of each other sample.
    """
    name = list(detector.layers)[-1] if layer is None else layer
    base = train[name].activation

    def scores(samples: Mapping[str, Influence]) -> dict[str, np.ndarray]:
        own = samples[name].activation
        return {
            "coverage": detector.score(samples),
            "Mahalanobis": mahalanobis_familiarity(base, own, labels=labels),
            f"neighbour {k}": neighbour_familiarity(base, own, k=k),
        }

    first, second = scores(inside), scores(outside)
    return Detections(
        {
            key: detection(
                first[key],
                second[key],
                inside_groups=inside_groups,
                outside_groups=outside_groups,
            )
            for key in first
        }
    )
