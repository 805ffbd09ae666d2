"""Captions of what somebody saw, from responses: the visual tokens of a captioner, decoded.

A ridge predicts the tokens that the captioner's own image encoder would give (`BrainDiffuser` with
the target "caption"), and the captioner reads those instead. Without a captioner, the caption of
the nearest training image is retrieved.

Source: Ferrante et al. 2023 (brain captioning, arXiv 2305.11560).
Axes: stimulus, token dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.compat import guard_torchaudio, optional
from neurofm.metrics import bleu, embedding_cosine, meteor_like, similarity
from neurofm.reconstruct.local_weights import check_device, local_folder
from neurofm.shapes import Float
from neurofm.stats import bootstrap_interval

# Where networks of transformers keep the encoder of images.
VISION = ("git.image_encoder", "vision_model", "encoder")


@runtime_checkable
class Captioner(Protocol):
    """Anything that says in words what visual tokens show."""

    def generate(self, visual_tokens: Tensor) -> list[str]:
        """A sentence for each row of `batch token dim`."""
        ...


class RetrievalCaptioner:
    """The caption of the training stimulus whose tokens are most like the decoded ones.

    Args:
        tokens: Of training stimuli.
        captions: One each.
        centred: Compare after taking away the mean over training stimuli, which all share.
    """

    def __init__(
        self,
        tokens: Float[Tensor, "stimulus token dim"],
        captions: Sequence[str],
        *,
        centred: bool = True,
    ) -> None:
        if len(tokens) != len(captions) or not len(captions):
            raise ValueError(
                f"RetrievalCaptioner: {len(captions)} captions for {len(tokens)} stimuli; expected "
                "one each."
            )
        self.shape = tuple(tokens.shape[1:])
        rows = tokens.flatten(1).double().numpy()
        self.mean = rows.mean(0) if centred else np.zeros(rows.shape[1])
        self.rows, self.captions = rows - self.mean, list(captions)

    def nearest(self, visual_tokens: Float[Tensor, "batch token dim"]) -> list[int]:
        """Row of the training stimulus for each."""
        if tuple(visual_tokens.shape[1:]) != self.shape:
            raise ValueError(
                f"RetrievalCaptioner: tokens of shape {tuple(visual_tokens.shape[1:])}, expected "
                f"{self.shape}, as those of the training stimuli."
            )
        rows = visual_tokens.flatten(1).double().numpy() - self.mean
        return similarity(self.rows, rows).argmax(0).tolist()

    def generate(self, visual_tokens: Float[Tensor, "batch token dim"]) -> list[str]:
        """The retrieved captions."""
        return [self.captions[row] for row in self.nearest(visual_tokens)]


class _Given(nn.Module):
    """Stands where the image encoder was and says what it is told."""

    def __init__(self, tokens: Tensor, inside: Any) -> None:
        super().__init__()
        self.tokens, self.inside = tokens, inside

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.inside(last_hidden_state=self.tokens, pooler_output=self.tokens[:, 0])


class TransformersCaptioner:
    """A captioner of transformers (GIT, BLIP or like) from a folder, fed with decoded tokens.

    Args:
        path: Folder of a saved model with its tokenizer; published: `microsoft/git-base-coco`.
        max_length: Tokens of a caption; 25 as published.
        device: Where it runs.

    Raises:
        FileNotFoundError: The folder or its weights are missing; the error says how to get them.
        ValueError: No such device, or a network without an encoder of images.
    """

    def __init__(self, path: str | Path, *, max_length: int = 25, device: str = "cpu") -> None:
        folder = local_folder(
            *(path,), config="config.json", what="a captioner", example="microsoft/git-base-coco"
        )
        place = check_device(device)
        guard_torchaudio()
        transformers = optional("transformers")
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True
        )
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = model.to(place).eval().requires_grad_(False)
        self.max_length, self.device, self.folder = max_length, place, folder
        self._inside = optional("transformers.modeling_outputs").BaseModelOutputWithPooling
        self._owner, self._name = self._vision()

    def _vision(self) -> tuple[nn.Module, str]:
        for path in VISION:
            owner, _, name = f"model.{path}".rpartition(".")
            try:
                found = SimpleNamespace(model=self.model)
                for part in owner.split("."):
                    found = getattr(found, part)
                if isinstance(getattr(found, name, None), nn.Module):
                    return found, name  # type: ignore[return-value]
            except AttributeError:
                continue
        raise ValueError(
            f"{self.folder}: {type(self.model).__name__} has no encoder of images at "
            f"{', '.join(VISION)}."
        )

    @torch.no_grad()
    def visual_tokens(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch token dim"]:
        """Targets of the ridge: the last hidden state of the image encoder.

        Args:
            pixels: Prepared as the captioner's image processor does.
        """
        encoder = getattr(self._owner, self._name)
        return encoder(pixels.to(self.device)).last_hidden_state.float().cpu()

    @torch.no_grad()
    def generate(self, visual_tokens: Float[Tensor, "batch token dim"]) -> list[str]:
        """Greedy captions of decoded tokens; the image encoder is not asked.

        Raises:
            ValueError: Tokens of another number or size than the encoder's.
        """
        encoder = getattr(self._owner, self._name)
        config = encoder.config
        expected = ((config.image_size // config.patch_size) ** 2 + 1, config.hidden_size)
        if tuple(visual_tokens.shape[1:]) != expected:
            raise ValueError(
                f"{type(self.model).__name__}: tokens of shape {tuple(visual_tokens.shape[1:])}, "
                f"expected {expected}. Predict the last hidden state of its own image encoder."
            )
        dtype = next(self.model.parameters()).dtype
        given = visual_tokens.to(self.device, dtype)
        pixels = torch.zeros(len(given), 3, config.image_size, config.image_size, dtype=dtype)
        setattr(self._owner, self._name, _Given(given, self._inside))
        try:
            said = self.model.generate(
                pixel_values=pixels.to(self.device), max_length=self.max_length, do_sample=False
            )
        finally:
            setattr(self._owner, self._name, encoder)
        sentences = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        return [sentence.strip() for sentence in sentences]


@dataclass(frozen=True)
class CaptionScore:
    """One metric of captions.

    Args:
        name: Of the metric.
        ground: The captioner on the true image against people's captions: what can be reached.
        absolute: The caption from the brain against the captioner's on the true image.
        relative: `absolute` / `ground`; NaN if `ground` is 0.
        low: End of the interval of `absolute` over stimuli (95 %); NaN where the metric is of a
            whole corpus (BLEU).
        high: The other end.
        chance: `absolute` with the captions from the brain dealt out at random, mean over shuffles.
    """

    name: str
    ground: float
    absolute: float
    relative: float
    low: float
    high: float
    chance: float


def score_captions(
    from_brain: Sequence[str],
    from_image: Sequence[str],
    human: Sequence[str] | Sequence[Sequence[str]],
    *,
    embed: Callable[[list[str]], np.ndarray] | None = None,
    n_shuffles: int = 20,
    seed: int = 0,
) -> list[CaptionScore]:
    """BLEU-1, BLEU-4, METEOR-like and, with `embed`, similarity: ground, absolute, relative.

    Args:
        from_brain: Captions decoded from responses.
        from_image: The same captioner's captions of the true images.
        human: One caption or several per stimulus; published with the first only.
        embed: Sentences to vectors, such as MiniLM (sentence similarity) or CLIP's text encoder.
        n_shuffles: For `chance`.
    """
    corpus: dict[str, Callable[..., np.ndarray]] = {
        "BLEU-1": lambda a, b: np.array([bleu(a, b, order=1)]),
        "BLEU-4": lambda a, b: np.array([bleu(a, b, order=4)]),
        "METEOR-like": meteor_like,
    }
    if embed is not None:
        corpus["similarity"] = lambda a, b: _similar(a, b, embed)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(from_brain)) for _ in range(n_shuffles)]
    scores = []
    for name, metric in corpus.items():
        ground = float(metric(from_image, human).mean())
        values = metric(from_brain, from_image)
        absolute = float(values.mean())
        low, high = (float("nan"), float("nan")) if len(values) < 3 else bootstrap_interval(values)
        dealt = [
            float(metric([from_brain[i] for i in order], from_image).mean()) for order in orders
        ]
        relative = absolute / ground if ground else float("nan")
        chance = float(np.mean(dealt)) if dealt else float("nan")
        scores.append(CaptionScore(name, ground, absolute, relative, low, high, chance))
    return scores


def _similar(
    a: Sequence[str],
    b: Sequence[str] | Sequence[Sequence[str]],
    embed: Callable[[list[str]], np.ndarray],
) -> np.ndarray:
    """Cosine with the first reference of each."""
    return embedding_cosine(a, [r if isinstance(r, str) else r[0] for r in b], embed)
