"""Dissimilarity matrices out of MATLAB files: structs, squares, vectors, and what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from neurofm.io import describe_rdms, read_rdms


def square(n: int = 6, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).standard_normal((n, 3))
    return np.linalg.norm(points[:, None] - points, axis=-1)


def save(folder: Path, **variables: object) -> Path:
    scipy.io.savemat(folder / "rdms.mat", variables)
    return folder / "rdms.mat"


def structs(*pairs: tuple[str, np.ndarray]) -> np.ndarray:
    result = np.empty(len(pairs), dtype=[("RDM", object), ("name", object), ("color", object)])
    for i, (name, matrix) in enumerate(pairs):
        result[i] = (matrix, name, np.array([0, 0, 1], np.uint8))
    return result


def test_squares_and_vectors_of_structs_give_the_same_matrix(tmp_path):
    matrix = square()
    vector = matrix[np.triu_indices(6, 1)]
    path = save(tmp_path, RDMs=structs(("V1", matrix), ("IT", vector), ("row", vector[None])))
    found = read_rdms(path, metric="euclidean")
    assert list(found) == ["V1", "IT", "row"]
    for rdm in found.values():
        np.testing.assert_allclose(rdm.square(), matrix)
        assert rdm.labels == ("1", "2", "3", "4", "5", "6") and rdm.metric == "euclidean"


def test_names_that_come_again_are_numbered_and_other_variables_passed_over(tmp_path):
    path = save(
        tmp_path,
        a=structs(("V1", square()), ("V1", square(seed=1))),
        plain=square(4),
        image=np.ones((5, 5, 3), np.uint8),
        mask=np.eye(5),
        words=np.array(["x", "yy"], dtype=object),
        colour=np.array([1.0, 0.0, 0.0]),
    )
    assert list(read_rdms(path)) == ["V1", "V1 (2)", "plain"]
    assert describe_rdms(path)[2].startswith("plain: 4 conditions, 6 pairs, ")


def broken(change: str) -> np.ndarray:
    matrix = square()
    if change == "skew":
        matrix[0, 1] += 1
    elif change == "diagonal":
        matrix[2, 2] = 1
    elif change == "nan":
        matrix[0, 1] = matrix[1, 0] = np.nan
    elif change == "oblong":
        matrix = matrix[:5]
    elif change == "vector":
        matrix = np.arange(14.0)
    elif change == "cube":
        matrix = np.zeros((3, 3, 3))
    elif change == "one":
        matrix = np.zeros((1, 1))
    return matrix


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("skew", "not symmetric"),
        ("diagonal", "diagonal reaches 1, expected 0. Is it a similarity"),
        ("nan", "1 of 15 dissimilarities are NaN"),
        ("oblong", r"shape \(5, 6\), expected a square"),
        ("vector", "14 values is not the triangle .* 6 conditions have 15"),
        ("cube", r"shape \(3, 3, 3\)"),
        ("one", r"shape \(1, 1\)"),
    ],
)
def test_a_matrix_that_is_no_dissimilarity_is_refused_by_name(change, words, tmp_path):
    path = save(tmp_path, RDMs=structs(("good", square()), ("odd", broken(change))))
    with pytest.raises(ValueError, match=rf"rdms\.mat: odd: .*{words}"):
        read_rdms(path)


def test_rounding_is_no_asymmetry(tmp_path):
    matrix = square().astype(np.float32)
    matrix[0, 1] *= 1 + 2e-7
    assert len(read_rdms(save(tmp_path, R=structs(("V1", matrix))))) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>login</html>", "web page"),
        (b"MATLAB 5.0 MAT-file" + b" " * 300, "Fetch it again"),
        (b"just text that is not a MATLAB file at all" * 5, "MAT"),
    ],
)
def test_a_file_that_is_no_matlab_file_is_refused(content, words, tmp_path):
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s)x\.mat: .*{words}"):
        read_rdms(tmp_path / "x.mat")


def test_a_matlab_file_of_version_7_3_says_how_to_save_it(tmp_path):
    import h5py

    path = tmp_path / "x.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["RDMs"] = square()
    content = bytearray(path.read_bytes())
    content[:36] = b"MATLAB 7.3 MAT-file, Platform: GLNXA"
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"x\.mat: a MATLAB 7\.3 file.*-v7"):
        read_rdms(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_refused(share, tmp_path):
    path = save(tmp_path, RDMs=structs(("V1", square(30))))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"rdms\.mat: .*"):
        read_rdms(path)


def test_a_file_without_dissimilarities_names_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"no dissimilarities: .*Its variables are x, y"):
        read_rdms(save(tmp_path, x=np.arange(3.0), y=np.eye(3)))
    with pytest.raises(FileNotFoundError, match="gone"):
        read_rdms(tmp_path / "gone.mat")


@pytest.mark.corpus
def test_the_92_image_files_hold_what_their_readme_says(corpora):
    folder = corpora / "rsa92"
    brain = read_rdms(folder / "92_brainRDMs.mat")
    assert len(brain) == 8 and next(iter(brain)) == "hIT | BE | Session: 1"
    models = read_rdms(folder / "92_modelRDMs.mat")
    assert len(models) == 8 and {"animacy", "monkeyIT", "V1"} <= set(models)
    both = read_rdms(folder / "Kriegeskorte_Neuron2008_supplementalData.mat")
    assert list(both) == ["mIT_674neurons", "hITvisStim_316vx"]
    for rdm in [*brain.values(), *models.values(), *both.values()]:
        assert len(rdm.labels) == 92 and rdm.values.shape == (4186,)
    # The vector of one file and the square of the other are the same data: the order holds.
    np.testing.assert_allclose(both["mIT_674neurons"].values, models["monkeyIT"].values, atol=1e-6)
