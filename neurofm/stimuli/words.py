"""What can be computed of words without any network: length, rate, embeddings of a table.

Source: Weinberger et al. 2009 (hashing of features); Pennington et al. 2014 (text tables of GloVe).
Axes: stimulus = word; feature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurofm.shapes import Bool, Float


def word_lengths(words: Sequence[str]) -> Float[np.ndarray, " stimulus"]:
    """Letters of each word."""
    return np.array([sum(c.isalnum() for c in word) for word in words], dtype=np.float32)


def word_rate(
    onsets_s: Float[np.ndarray, " stimulus"], times_s: Float[np.ndarray, " time"]
) -> Float[np.ndarray, " time"]:
    """Words per second between each time and the next; regular times."""
    times = np.asarray(times_s, dtype=np.float64)
    if len(times) < 2 or not (np.diff(times) > 0).all():
        raise ValueError(f"word_rate: {len(times)} times; expected at least 2, increasing.")
    step = float(np.median(np.diff(times)))
    counts, _ = np.histogram(onsets_s, bins=np.append(times, times[-1] + step))
    return (counts / np.diff(np.append(times, times[-1] + step))).astype(np.float32)


def hashed_words(words: Sequence[str], *, dim: int = 64) -> Float[np.ndarray, "stimulus feature"]:
    """Pseudo-random vectors that depend on the word's letters (in lower case) alone: a control
    that tells words apart and knows no meaning. Rows have length 1.
    """
    table = {}
    for word in {word.lower() for word in words}:
        digest = hashlib.sha256(word.encode()).digest()
        row = np.random.default_rng(list(digest)).standard_normal(dim)
        table[word] = row / np.linalg.norm(row)
    return np.array([table[word.lower()] for word in words], dtype=np.float32).reshape(-1, dim)


@dataclass(frozen=True)
class Embedded:
    """Words as vectors.

    Args:
        values: Zeros for words that the table does not know.
        known: False for those.
    """

    values: Float[np.ndarray, "stimulus feature"]
    known: Bool[np.ndarray, " stimulus"]


def embed_words(words: Sequence[str], table: Mapping[str, np.ndarray]) -> Embedded:
    """Vectors of a table, looked up as spelled and then in lower case.

    Raises:
        ValueError: An empty table, or one that knows none of the words.
    """
    if not table:
        raise ValueError("embed_words: the table is empty.")
    dim = len(next(iter(table.values())))
    rows = [table.get(word, table.get(word.lower())) for word in words]
    known = np.array([row is not None for row in rows])
    if len(words) and not known.any():
        raise ValueError(
            f"embed_words: none of {len(words)} words, such as {words[0]!r}, is in the table of "
            f"{len(table)}. Is it of another language?"
        )
    values = np.array([np.zeros(dim) if row is None else row for row in rows], dtype=np.float32)
    return Embedded(values.reshape(-1, dim), known)


def read_embeddings(
    path: Path | str, words: Collection[str] | None = None
) -> dict[str, Float[np.ndarray, " feature"]]:
    """A text table of a word and its numbers per line (GloVe; word2vec and fastText with a header).

    Args:
        words: Keep only these (as spelled or in lower case): tables are large.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line of another length; it is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such table of embeddings. GloVe's are at "
            "https://nlp.stanford.edu/projects/glove/ (unpack the zip and name one .txt file)."
        )
    wanted = None if words is None else {*words, *(word.lower() for word in words)}
    found: dict[str, np.ndarray] = {}
    dim = None
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            word, *numbers = line.rstrip("\n").rstrip(" ").split(" ")
            if number == 1 and len(numbers) == 1 and word.isdigit():
                continue  # how many words, how many numbers
            dim = len(numbers) if dim is None else dim
            if len(numbers) != dim or not dim:
                raise ValueError(
                    f"{path}: line {number} has {len(numbers)} numbers, the first had {dim}. "
                    "The file is damaged or no text table."
                )
            if wanted is None or word in wanted:
                found[word] = np.array(numbers, dtype=np.float32)
    return found


def contexts(words: Sequence[str], *, n_words: int = 32) -> list[str]:
    """Each word with those before it, for language models: pool the last token.

    Args:
        n_words: At most, the word itself included.
    """
    if n_words < 1:
        raise ValueError(f"contexts: n_words is {n_words}, expected at least 1.")
    return [" ".join(words[max(0, i + 1 - n_words) : i + 1]) for i in range(len(words))]
