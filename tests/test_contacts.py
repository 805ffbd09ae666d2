"""Contacts of depth electrodes: their names, shafts, places, and the tables that say them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm.io import open_path, read_electrodes
from neurofm.io.contacts import (
    Contact,
    depth_problem,
    frame_of_space,
    parse_contact,
    parse_pair,
    shafts_of,
)
from neurofm.io.quality import RecordingWarning, collect
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind


@pytest.mark.parametrize(
    ("name", "shaft", "number", "hemisphere"),
    [
        ("LA1", "LA", 1, None),
        ("A'12", "A'", 12, "left"),
        ("A’3", "A'", 3, "left"),
        ("TI'2", "TI'", 2, "left"),  # Du-IN
        ("POL B3", "B", 3, None),  # Nihon Kohden
        ("POL A'01", "A'", 1, "left"),
        ("EEG LAm10-Ref", "LAm", 10, None),
        ("EEG A'1-REF", "A'", 1, "left"),
        ("SEEG A 1", "A", 1, None),
        ("LTG-12", "LTG", 12, None),
        ("LPM-Grid 3", "LPM-Grid", 3, None),
        ("G_12", "G", 12, None),
        ("LT2_3", "LT2", 3, None),
        ("G1 12", "G1", 12, None),
        ("BTM6", "BTM", 6, None),
        ("C64..", "C", 64, None),
        ("R0", "R", 0, None),
    ],
)
def test_a_contact_is_read_from_the_spellings_of_the_field(name, shaft, number, hemisphere):
    assert parse_contact(name) == Contact(shaft, number, hemisphere)


@pytest.mark.parametrize(
    "name",
    [
        *("EKG1", "ECG 2", "EOG1", "EMG3", "DC01", "SpO2", "STI 014", "CH12", "EEG 012", "POL"),
        *("POL E", "A1-A2", "A1-2", "EEG A'1-A'2", "12", "A'", "", "MISC1", "MEG 0113", "CSC5"),
    ],
)
def test_what_is_no_single_contact_is_none(name):
    assert parse_contact(name) is None


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("A1-A2", (Contact("A", 1), Contact("A", 2))),
        ("A10-11", (Contact("A", 10), Contact("A", 11))),
        ("POL A1-POL A2", (Contact("A", 1), Contact("A", 2))),
        ("EEG A'1-A'2", (Contact("A'", 1, "left"), Contact("A'", 2, "left"))),
        ("LTG-1-LTG-2", (Contact("LTG", 1), Contact("LTG", 2))),
        ("LTG-12", None),
        ("A1-Ref", None),
        ("A1-A1", None),
    ],
)
def test_a_bipolar_name_is_two_contacts(name, pair):
    assert parse_pair(name) == pair


NAMES = st.text(max_size=12) | st.from_regex(
    r"(EEG |POL |SEEG-)?[A-Za-z]{0,3}['’]?[ _-]?[0-9]{0,4}(-[A-Za-z]{0,3}'?[0-9]{0,3})?",
    fullmatch=True,
)


@given(NAMES)
def test_any_name_is_a_contact_a_pair_or_neither_and_a_plain_spelling_parses_back(name):
    contact, pair = parse_contact(name), parse_pair(name)
    assert contact is None or pair is None
    for found in [contact, *(pair or ())]:
        if found is not None:
            assert (found.hemisphere == "left") == found.shaft.endswith("'")
            again = parse_contact(found.name)
            assert again is None or again == found


def test_shafts_are_ordered_by_number_and_a_contact_that_comes_twice_is_refused():
    assert shafts_of(["B2", "A10", "A9", "B1", "EKG1"]) == {"B": {1: 3, 2: 0}, "A": {9: 2, 10: 1}}
    with pytest.raises(ValueError, match=r"'A1' and 'A01' are both contact 1 of A"):
        shafts_of(["A1", "A2", "A01"])


def named(names: list[str]) -> Signal:
    sensors = Sensors.of_kind(names, Kind.EEG)
    return Signal(np.zeros((len(names), 10)), 100.0, sensors, (), Recording("d", "1"))


def test_depth_contacts_typed_eeg_are_reported_and_scalp_electrodes_are_not():
    depth = [f"{shaft}{i}" for shaft in ("A'", "LH") for i in range(1, 9)]
    problem = depth_problem(named([*depth, "Fz"]))
    assert problem is not None and problem.what.startswith("16 of 17 channels typed EEG")
    scalp = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8", "A1", "A2"]
    assert depth_problem(named(scalp)) is None
    assert depth_problem(named([f"C{i}" for i in range(1, 7)])) is None
    caps = (
        [f"{letter}{i}" for letter in "AB" for i in range(1, 33)],
        [f"E{i}" for i in range(1, 129)],
    )
    assert depth_problem(named(caps[0])) is None and depth_problem(named(caps[1])) is None


def test_opening_a_file_never_takes_scalp_names_for_contacts_in_silence(tiny, tmp_path):
    tiny.names = ["A'1", "A'2", "A'3", "B'1", "B'2", "B'3"]
    tiny.edf(tmp_path / "one.edf")
    corpus = open_path(tmp_path / "one.edf")
    with collect() as problems:
        signal = corpus.load(corpus.recordings()[0])
    assert "depth_contacts" in {problem.code for problem in problems}
    assert (signal.sensors.kind == Kind.EEG).all()  # said, not changed


TABLE = "name\tx\ty\tz\tsize\tregion\nA1\t10\t-20.5\t3\t5\thippocampus\nA2\tn/a\t0\t0\t5\tn/a\n"


def electrode_files(folder: Path, table: str, system: object) -> tuple[Path, Path]:
    paths = folder / "electrodes.tsv", folder / "coordsystem.json"
    paths[0].write_text(table, encoding="utf-8")
    paths[1].write_text(system if isinstance(system, str) else json.dumps(system))
    return paths


@pytest.mark.parametrize(("unit", "metres"), [("mm", 1e-3), ("cm", 1e-2), ("m", 1.0)])
def test_an_electrode_table_gives_metres_frame_and_regions(unit, metres, tmp_path):
    table = TABLE if unit == "mm" else TABLE.replace("10\t-20.5\t3", "0.1\t-0.2\t0.03")
    system = {"iEEGCoordinateSystem": "MNI152NLin2009cAsym", "iEEGCoordinateUnits": unit}
    found = read_electrodes(*electrode_files(tmp_path, table, system))
    assert found.names == ("A1", "A2") and found.frame == "mni"
    assert found.region == ("hippocampus", "")
    first = np.array([10, -20.5, 3] if unit == "mm" else [0.1, -0.2, 0.03]) * metres
    np.testing.assert_allclose(found.position[0], first)
    assert np.isnan(found.position[1]).all()  # one coordinate missing: the place is unknown


@pytest.mark.parametrize(
    ("space", "frame"),
    [
        *(("MNI152Lin", "mni"), ("fsaverage", "mni"), ("ICBM452AirSpace", "mni")),
        *(("ACPC", "unknown"), ("Talairach", "unknown"), ("ScanRAS", "scanner"), ("", "unknown")),
    ],
)
def test_spaces_of_bids_become_frames(space, frame):
    assert frame_of_space(space) == frame


@pytest.mark.parametrize(
    ("table", "system", "words"),
    [
        ("", {}, "empty"),
        ("name\tx\ty\nA1\t1\t2\n", {}, "columns z are missing"),
        ("name\tx\ty\tz\n", {}, "no electrodes"),
        (TABLE.replace("A2", "A1"), {}, "A1 come twice"),
        (TABLE.replace("A2", ""), {}, "without a name"),
        (TABLE.replace("-20.5", "left"), {}, "coordinate 'left' of electrode 1 is not a number"),
        (TABLE + "A3\t1\n", {}, "line 4 has another number of cells"),
        (TABLE, {"iEEGCoordinateSystem": "ACPC"}, "iEEGCoordinateUnits is None"),
        (TABLE, {"iEEGCoordinateUnits": "inch"}, "'inch' is not one of"),
        (TABLE, {"iEEGCoordinateUnits": "m"}, "20.5 m from the origin"),
        (TABLE, "[1]", "holds a list"),
        (TABLE, "{", "not JSON"),
        (TABLE, "<!DOCTYPE html>", "web page"),
    ],
)
def test_a_broken_electrode_table_is_refused_by_name(table, system, words, tmp_path):
    if system == {}:
        system = {"iEEGCoordinateUnits": "mm"}
    with pytest.raises(ValueError, match=words):
        read_electrodes(*electrode_files(tmp_path, table, system))


def test_without_a_unit_positions_are_unknown_and_that_is_said(tmp_path):
    table, system = electrode_files(tmp_path, TABLE, {"iEEGCoordinateUnits": "pixels"})
    for sidecar in (None, system):
        with pytest.warns(RecordingWarning, match="positions of the electrodes are not used"):
            assert np.isnan(read_electrodes(table, sidecar).position).all()


@given(st.binary(max_size=80), st.text(max_size=60))
def test_any_bytes_as_electrode_table_work_or_are_refused(tmp_path_factory, table, system):
    folder = tmp_path_factory.mktemp("electrodes")
    (folder / "e.tsv").write_bytes(b"name\tx\ty\tz\n" + table if len(table) % 2 else table)
    (folder / "c.json").write_text(system, encoding="utf-8")
    with collect():
        for sidecar in (None, folder / "c.json"):
            try:
                found = read_electrodes(folder / "e.tsv", sidecar)
            except ValueError as error:
                assert str(folder) in str(error)
            else:
                assert len(found.position) == len(found.names)
