"""Does a decoder notice a new headset, and a new person?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import unfamiliar


@pytest.mark.slow
def test_a_simulated_headset_is_noticed(tmp_path: Path) -> None:
    everybody = unfamiliar.read(
        "simulated_motor_imagery",
        subjects=["1", "2", "3", "4", "5", "6"],
        runs=["1", "2", "3"],
        labelled=True,
        store=tmp_path,
    )
    known = everybody.take(everybody.subject <= 3)
    third = known.take(known.run == 3)
    others = {
        "another amplifier": unfamiliar.other_amplifier(third),
        "other people": everybody.take((everybody.subject > 3) & (everybody.run == 3)),
    }
    found = unfamiliar.measure(known, (1, 2, 3), others, epochs=20)
    print(found.table())
    for scores in found.detections.values():
        assert list(scores.scores) == ["coverage", "Mahalanobis", "neighbour 10"]
        assert scores["coverage"].n_groups == (3, 3)
    assert found.detections["another amplifier"]["Mahalanobis"].auroc > 0.9
    assert found.detections["another amplifier"]["coverage"].auroc > 0.7


@pytest.mark.slow
@pytest.mark.corpus
@pytest.mark.parametrize("first", [True, False], ids=["S001-S006", "S007-S012"])
def test_another_headset_and_other_people_of_eegmmidb(
    first: bool, corpora: Path, tmp_path: Path
) -> None:
    everybody = unfamiliar.read(
        "eegmmidb",
        subjects=[str(i) for i in range(1, 13)],
        runs=["4", "8", "12"],
        labelled=True,
        store=tmp_path,
    )
    mine = (everybody.subject <= 6) == first
    known = everybody.take(mine)
    third = known.take(known.run == 12)
    eegmat = unfamiliar.read(
        "eegmat",
        subjects=["0", "1", "2"],
        runs=["1", "2"],
        labelled=False,
        store=tmp_path,
        older=True,
    )
    others = {
        "other people": everybody.take(~mine & (everybody.run == 12)),
        "another amplifier (simulated)": unfamiliar.other_amplifier(third),
        "another headset (EEGMAT)": eegmat,
    }
    found = unfamiliar.measure(known, (4, 8, 12), others, epochs=20)
    print(found.table())
    headset = found.detections["another headset (EEGMAT)"]
    assert max(one.auroc for one in headset.scores.values()) > 0.7
    assert all(
        np.isfinite(one.auroc) for d in found.detections.values() for one in d.scores.values()
    )
