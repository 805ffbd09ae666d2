"""How well a generated sentence agrees with reference sentences, without a network.

Words are runs of letters and digits, lower case; punctuation marks are words of their own.

Source: Papineni et al. 2002 (BLEU); Banerjee & Lavie 2005 with the parameters of Lavie & Agarwal
2007 (METEOR, whose dictionary of synonyms is left out here: "METEOR-like").
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from neurofm.metrics.responses import unit_rows
from neurofm.shapes import Float

References = Sequence[str] | Sequence[Sequence[str]]


def words(sentence: str) -> list[str]:
    """Lower-case words and punctuation marks."""
    return re.findall(r"\w+|[^\w\s]", sentence.lower())


def bleu(candidates: Sequence[str], references: References, *, order: int = 4) -> float:
    """BLEU of a corpus, 0 to 1: precision of runs of 1 to `order` words, cut for short sentences.

    Counts are summed over all sentences before any ratio, so it is no mean over sentences.

    Args:
        candidates: One generated sentence per stimulus.
        references: For each, one sentence or several. With one, BLEU is understated.
        order: 1 to 4 usually; all runs up to it weigh the same.

    Returns:
        0 if there is no run of `order` words in common: nothing is smoothed.
    """
    if order < 1:
        raise ValueError(f"bleu: order {order}; expected 1 or more.")
    pairs = _pairs("bleu", candidates, references)
    right, total = np.zeros(order), np.zeros(order)
    length = closest = 0
    for said, meant in pairs:
        length += len(said)
        closest += min((abs(len(m) - len(said)), len(m)) for m in meant)[1]
        for n in range(1, order + 1):
            counts = _runs(said, n)
            most: Counter = Counter()
            for m in meant:
                most |= _runs(m, n)
            right[n - 1] += sum((counts & most).values())
            total[n - 1] += sum(counts.values())
    if not length or (right == 0).any():
        return 0.0
    brevity = min(1.0, math.exp(1 - closest / length))
    return float(brevity * np.exp(np.log(right / total).mean()))


def meteor_like(
    candidates: Sequence[str],
    references: References,
    *,
    stem: Callable[[str], str] | None = None,
    alpha: float | int = 0.9,
    beta: float | int = 3.0,
    gamma: float | int = 0.5,
) -> Float[np.ndarray, " stimulus"]:
    """METEOR of each sentence from equal words, then equal stems; the best of its references.

    Recall weighs 9 to 1; the more pieces the common words come in, the lower the score.

    Args:
        stem: Word to stem; without it only equal words match, and no synonyms match in any case,
            so values lie below those of METEOR with its dictionary.
    """
    best = []
    for said, meant in _pairs("meteor_like", candidates, references):
        best.append(max(_meteor(said, m, stem, alpha, beta, gamma) for m in meant))
    return np.array(best, dtype=np.float64)


def embedding_cosine(
    candidates: Sequence[str],
    references: Sequence[str],
    embed: Callable[[list[str]], np.ndarray],
) -> Float[np.ndarray, " stimulus"]:
    """Cosine of the embeddings of matching sentences.

    Args:
        embed: Sentences to `sentence feature`, such as a sentence or CLIP text encoder.
    """
    if len(candidates) != len(references) or not len(candidates):
        raise ValueError(
            f"embedding_cosine: {len(candidates)} sentences and {len(references)} references."
        )
    a, b = (unit_rows(np.asarray(embed(list(s)), np.float64)) for s in (candidates, references))
    if a.ndim != 2 or a.shape != b.shape or len(a) != len(candidates):
        raise ValueError(
            f"embedding_cosine: `embed` made {a.shape} and {b.shape} of {len(candidates)} "
            "sentences; expected one row each."
        )
    return (a * b).sum(1)


def _pairs(
    name: str, candidates: Sequence[str], references: References
) -> list[tuple[list[str], list[list[str]]]]:
    if isinstance(candidates, str) or len(candidates) != len(references) or not len(candidates):
        raise ValueError(
            f"{name}: {len(candidates)} candidates and {len(references)} references; expected a "
            "list of sentences and one sentence, or list of sentences, for each."
        )
    several = [[r] if isinstance(r, str) else list(r) for r in references]
    if not all(several):
        raise ValueError(f"{name}: a sentence has no reference.")
    return [(words(c), [words(r) for r in own]) for c, own in zip(candidates, several, strict=True)]


def _runs(sentence: list[str], n: int) -> Counter:
    return Counter(tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1))


def _meteor(
    said: list[str],
    meant: list[str],
    stem: Callable[[str], str] | None,
    alpha: float | int,
    beta: float | int,
    gamma: float | int,
) -> float:
    place: dict[int, int] = {}
    taken: set[int] = set()
    for form in (str, stem) if stem else (str,):
        left = [form(word) for word in meant]
        for i, word in enumerate(form(w) for w in said):
            if i in place:
                continue
            free = [j for j, other in enumerate(left) if other == word and j not in taken]
            if free:
                # Next to the word before where possible, so that pieces are few.
                wanted = place.get(i - 1, -2) + 1
                place[i] = wanted if wanted in free else free[0]
                taken.add(place[i])
    if not place:
        return 0.0
    matches = len(place)
    precision, recall = matches / len(said), matches / len(meant)
    mean = precision * recall / (alpha * precision + (1 - alpha) * recall)
    order = sorted(place)
    follows = sum(b == a + 1 and place[b] == place[a] + 1 for a, b in pairwise(order))
    return mean * (1 - gamma * ((matches - follows) / matches) ** beta)
