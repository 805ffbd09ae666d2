"""Which recordings are copies of each other, by their fingerprints.

Two fingerprints are compared at every shift of up to ten seconds (a copy may have lost its first
seconds): the similarity is 1 - 2 x the share of bits that differ, 1 for a copy and about 0.1 (the
best of many shifts) for another recording. The fewer bits there are, the more similar they must be.

Large collections are not compared pair by pair: copies share whole runs of bits, which are found by
sorting, so that 100,000 fingerprints take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neurofm.data.fingerprints import MAX_FRAMES, MIN_FRAMES, decode_fingerprint
from neurofm.shapes import Bool, Float, Int

MAX_SHIFT = 40  # frames: 10 s of a fast signal
# Unlike recordings reach 0.12 +- 0.03 at two minutes and spread with the root of the length.
_LEAST, _NOISE = 0.4, 6.5
_PAIRS = 150_000  # up to here every pair is compared
_WORD = 24  # frames in a run of bits, two apart
_WORDS = 20_000_000  # kept of one side, at most
_CROWD = 256  # a run of bits that so many recordings share says nothing


def similarity(a: str, b: str) -> float:
    """How alike two fingerprints are at their best shift: 1 equal, about 0 unrelated.

    Fingerprints of other makers are 1 if equal, else 0. "" is like nothing.
    """
    if not a or not b:
        return 0.0
    ours, theirs = decode_fingerprint(a), decode_fingerprint(b)
    if ours is None or theirs is None or ours[0] != theirs[0]:
        return float(a == b)
    return float(_compare(_Bits([ours[1]]), _Bits([theirs[1]]))[0][0, 0])


def same_recording(a: str, b: str) -> bool:
    """Whether two fingerprints are of one recording."""
    return bool(find_copies([a], [b]))


def find_copies(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """Positions (in `left`, in `right`) of fingerprints of one recording, in order.

    Fingerprints of other makers match where they are equal; "" never does.
    """
    where = [_positions(left), _positions(right)]
    found = {(a, a) for a in where[0].keys() & where[1].keys()}
    decoded = [{text: decode_fingerprint(text) for text in side} for side in where]
    for family in {item[0] for item in decoded[0].values() if item is not None}:
        texts = [
            [text for text, item in side.items() if item is not None and item[0] == family]
            for side in decoded
        ]
        if not texts[1]:
            continue
        bits = [
            _Bits([side[text][1] for text in names])  # type: ignore[index]
            for side, names in zip(decoded, texts, strict=True)
        ]
        search = _every_pair if len(texts[0]) * len(texts[1]) <= _PAIRS else _shared_words
        found |= {(texts[0][i], texts[1][j]) for i, j in search(bits[0], bits[1])}
    return sorted((i, j) for a, b in found for i in where[0][a] for j in where[1][b])


def _positions(texts: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        if text:
            found.setdefault(text, []).append(i)
    return found


class _Bits:
    """Bits of many fingerprints (frame x feature, of any length), padded to one length."""

    def __init__(self, bits: Sequence[np.ndarray]) -> None:
        self.length = np.array([len(item) for item in bits], dtype=np.int64)
        self.values = np.zeros((len(bits), MAX_FRAMES, 2), dtype=bool)
        for i, item in enumerate(bits):
            self.values[i, : len(item)] = item

    def __len__(self) -> int:
        return len(self.length)

    def packed(self, members: slice | np.ndarray, shift: int) -> np.ndarray:
        """Rows of 64-bit words, moved to the front by `shift` frames."""
        moved = self.values[members, max(shift, 0) :]
        if shift < 0:
            moved = moved[:, :shift]
        before = max(-shift, 0)
        after = MAX_FRAMES - moved.shape[1] - before
        whole = np.pad(moved, ((0, 0), (before, after), (0, 0)))
        return np.packbits(whole.reshape(len(whole), -1), axis=1).view(np.uint64)

    def valid(self, members: slice | np.ndarray, shift: int) -> np.ndarray:
        """As `packed`: which bits there are."""
        time = np.arange(MAX_FRAMES) + shift
        there = (time >= 0) & (time < self.length[members, None])
        return np.packbits(np.repeat(there, 2, axis=1), axis=1).view(np.uint64)


def _least(n_frames: np.ndarray) -> np.ndarray:
    """Similarity that this many frames must reach; none is enough for too few."""
    least = np.maximum(_LEAST, _NOISE / np.sqrt(np.maximum(n_frames, 1)))
    return np.where(n_frames >= MIN_FRAMES, least, np.inf)


def _alike(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Similarity, and frames compared, along the last axis of packed bits."""
    n_bits = np.bitwise_count(valid).sum(axis=-1, dtype=np.int64)
    wrong = np.bitwise_count((a ^ b) & valid).sum(axis=-1, dtype=np.int64)
    return 1 - 2 * wrong / np.maximum(n_bits, 1), n_bits // 2


def _compare(
    left: _Bits, right: _Bits
) -> tuple[Float[np.ndarray, "left right"], Bool[np.ndarray, "left right"]]:
    """Best similarity of every pair, and whether it is that of a copy."""
    if len(left) < len(right):  # moving the smaller side is cheaper
        best, copy = _compare(right, left)
        return best.T, copy.T
    best = np.full((len(left), len(right)), -1.0)
    margin = np.full(best.shape, -np.inf)
    everything = slice(None)
    ours, there = left.packed(everything, 0), left.valid(everything, 0)
    for shift in range(-MAX_SHIFT, MAX_SHIFT + 1):
        theirs, also = right.packed(everything, shift), right.valid(everything, shift)
        for j in range(len(right)):
            alike, n_frames = _alike(ours, theirs[j], there & also[j])
            above = alike - _least(n_frames)
            better = above > margin[:, j]
            best[better, j], margin[better, j] = alike[better], above[better]
    return best, margin >= 0


def _every_pair(left: _Bits, right: _Bits) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in np.argwhere(_compare(left, right)[1])]


def _shared_words(left: _Bits, right: _Bits) -> list[tuple[int, int]]:
    """Pairs that share a run of bits at about the same time, compared at that shift."""
    # Of a large collection some runs, the same on both sides, are enough.
    every = -(-max(len(left), len(right)) * MAX_FRAMES // _WORDS)
    word, owner, at = _words(left, every)
    order = np.argsort(word, kind="stable")
    word, owner, at = word[order], owner[order], at[order]
    found: set[tuple[int, int]] = set()
    step = max(_WORDS // (10 * MAX_FRAMES), 1)
    for start in range(0, len(right), step):
        part = slice(start, min(start + step, len(right)))
        theirs, whose, when = _words(right, every, part)
        low, high = np.searchsorted(word, theirs, "left"), np.searchsorted(word, theirs, "right")
        count = np.where(high - low <= _CROWD, high - low, 0)
        hit = (
            np.repeat(low, count)
            + np.arange(count.sum())
            - np.repeat(np.cumsum(count) - count, count)
        )
        shift = np.repeat(when, count) - at[hit]
        near = np.abs(shift) <= MAX_SHIFT
        triple = np.stack([owner[hit], np.repeat(whose, count), shift])[:, near]
        found |= _verified(left, right, np.unique(triple, axis=1))
    return sorted(found)


def _verified(
    left: _Bits, right: _Bits, triple: Int[np.ndarray, "3 candidate"]
) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for shift in np.unique(triple[2]):
        candidates = triple[:2, triple[2] == shift]
        for i, j in np.array_split(candidates, -(-candidates.shape[1] // 20_000), axis=1):
            valid = left.valid(i, 0) & right.valid(j, int(shift))
            alike, n_frames = _alike(left.packed(i, 0), right.packed(j, int(shift)), valid)
            good = alike >= _least(n_frames)
            found |= set(zip(i[good].tolist(), j[good].tolist(), strict=True))
    return found


def _words(
    bits: _Bits, every: int, members: slice = slice(None)
) -> tuple[Int[np.ndarray, " word"], Int[np.ndarray, " word"], Int[np.ndarray, " word"]]:
    """Runs of `_WORD` frames two apart, the recording of each, and its first frame.

    Args:
        every: Keep one in so many of the distinct runs, chosen by their bits.
    """
    kept: list[tuple[np.ndarray, ...]] = []
    rows = np.arange(len(bits))[members]
    for part in np.array_split(rows, -(-len(rows) // 2000)):
        v = bits.values[part].astype(np.int64)
        # Two frames, four, eight, sixteen by joining halves; then the last eight.
        word = v[..., 0] * 2 + v[..., 1]
        eight = word
        for n in (1, 2, 4, 8):
            eight = word if n == 8 else eight
            word = (word[:, : -2 * n] << (2 * n)) | word[:, 2 * n :]
        size = MAX_FRAMES - 2 * (_WORD - 1)
        run = (word[:, :size] << 16) | eight[:, 32 : 32 + size]
        frame = np.arange(size)
        whole = frame + 2 * (_WORD - 1) < bits.length[part, None]
        # A multiplicative hash: neighbouring runs differ in few bits.
        mixed = (run.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
        i, at = np.nonzero(whole & (mixed % np.uint64(every) == 0))
        kept.append((run[i, at], part[i].astype(np.int32), at.astype(np.int16)))
    word, owner, frame = (np.concatenate(items) for items in zip(*kept, strict=True))
    return word, owner, frame
