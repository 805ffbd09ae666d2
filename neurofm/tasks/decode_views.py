"""DecodeViews: learn classes from several views of every window, held together by contrast.

In training the classes of all views are learned, and two descriptions of each window, the model's
features and its companion's, are compared between views and with each other. Validation, test and
prediction see the window as it is, and the model and readout alone: the companion is for training.

Without contrast (both weights 0) any model learns from views: they are then augmentation alone.

Source: MVCNet (arXiv 2502.17482), weights and temperature included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurofm.batch import Batch, BrainModel, Readout
from neurofm.cards import configured
from neurofm.nn.contrast import between_networks, between_views
from neurofm.tasks.decode import Decode


@runtime_checkable
class View(Protocol):
    """Changes a batch, such as `neurofm.data.Flip`."""

    def forward(self, batch: Batch) -> Batch:
        """The changed batch."""
        ...


@configured
class DecodeViews(Decode):
    """Predict the class of each window, trained on views of it.

    Args:
        model: For contrast with `project(batch)`, which describes windows in as many features as
            `encode`, such as MVCNet.
        n_outputs: Classes; must agree with the data's labels.
        views: Each window is seen as it is and changed by each of these.
        readout: From embedding to logits; a linear map of the pooled embedding if not given.
        between_views: Weight of the contrast between the window as it is and each other view.
        between_networks: Weight of the contrast between the model and its companion.
        temperature: Of both.
        lr: Of all parts.
        allow_overlap: See `Decode`.
    """

    def __init__(
        self,
        model: BrainModel,
        *,
        n_outputs: int,
        views: Sequence[View],
        readout: Readout | None = None,
        between_views: float = 0.1,
        between_networks: float = 0.1,
        temperature: float = 0.2,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: Sequence[float] = (0.9, 0.999),
        warmup: float = 0.0,
        allow_overlap: bool = False,
    ) -> None:
        super().__init__(
            model,
            n_outputs=n_outputs,
            readout=readout,
            lr=lr,
            backbone_lr=1.0,
            label_smoothing=0.0,
            allow_overlap=allow_overlap,
            weight_decay=weight_decay,
            betas=betas,
            warmup=warmup,
        )
        self.weights = (between_views, between_networks)
        if any(self.weights) and not callable(getattr(model, "project", None)):
            raise ValueError(
                f"DecodeViews: {type(model).__name__} has no `project`, whose description of a "
                "window could be compared with its features. Set between_views and "
                "between_networks to 0 to learn from views without contrast, or use MVCNet."
            )
        if not views:
            raise ValueError("DecodeViews: there are no views to learn from; use Decode.")
        self.views = nn.ModuleList(cast(Sequence[nn.Module], views))
        self.temperature = temperature

    def setup(self, stage: str) -> None:
        """Compare the views' classes with the data's."""
        super().setup(stage)
        labels = getattr(getattr(self.trainer, "datamodule", None), "labels", None)
        for view in self.views:
            classes = getattr(view, "classes", None)
            if labels is not None and classes is not None and list(classes) != list(labels):
                raise ValueError(
                    f"DecodeViews: {type(view).__name__} knows the classes {list(classes)}, but "
                    f"the data have the labels {list(labels)}. Make them agree, in their order."
                )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """What training makes small.

        Returns:
            "loss"; "entropy" (nats, added over views); with contrast "between_views" and
            "between_networks" (nats); "accuracy" of the windows as they are.

        Raises:
            ValueError: The batch has no labels.
        """
        batches = [batch, *(view(batch) for view in self.views)]
        labels = [changed.y for changed in batches]
        if any(y is None for y in labels):
            raise ValueError("DecodeViews: the batch has no labels; set `labels` in the data.")
        model = cast(Any, self.model)
        seen = [model.encode(changed) for changed in batches]
        logits = [self.readout(embedding) for embedding in seen]
        pairs = zip(logits, labels, strict=True)
        entropy = torch.stack([F.cross_entropy(z, cast(Tensor, y)) for z, y in pairs]).sum()
        found = {"loss": entropy, "entropy": entropy.detach()}
        if any(self.weights):
            features = [embedding.pooled() for embedding in seen]
            projections = [model.project(changed) for changed in batches]
            views = between_views(features, projections, temperature=self.temperature).mean()
            networks = between_networks(features, projections, temperature=self.temperature)
            found["loss"] = entropy + self.weights[0] * views + self.weights[1] * networks
            found |= {"between_views": views.detach(), "between_networks": networks.detach()}
        return found | {"accuracy": (logits[0].argmax(1) == labels[0]).float().mean()}

    def step(self, batch: Batch, stage: str) -> Tensor:
        """All losses in training; cross-entropy of the windows as they are elsewhere."""
        if stage != "train":
            return super().step(batch, stage)
        found = self.losses(batch)
        self.record(found, stage=stage, size=len(batch), bar="accuracy")
        return found["loss"]
