"""Pipelines of diffusers as generators: a folder of weights on this machine, and decoded tokens.

Works on every pipeline with `vae`, `unet` (or `image_unet`) and `scheduler`: Stable Diffusion, its
image variations, and Versatile Diffusion, whose attention mixes vision and text tokens as
Brain-Diffuser does. The noise is taken away by `diffusion.sample`, so that the start from an image,
the mixing and any guidance are the same for all.

Source: Ozcelik & VanRullen 2023 (Brain-Diffuser, arXiv 2303.05334): strength 0.75, 50 steps of
DDIM, guidance 7.5, 40 % text.
Axes: batch 3 height width, 0 to 1; batch token dim.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.compat import guard_torchaudio, optional
from neurofm.reconstruct.diffusion import NoiseSchedule, generate_images
from neurofm.reconstruct.local_weights import check_device, local_folder
from neurofm.shapes import Float

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def _without_mask(forward: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, encoder_attention_mask: Any = None, **options: Any) -> Any:
        return forward(*args, **options)

    return called


class DiffusersGenerator:
    """An `ImageGenerator` and `LatentDiffusion` around a saved pipeline.

    Args:
        path: Folder that `save_pretrained` wrote; published: `shi-labs/versatile-diffusion`.
        use: Which tokens the pipeline attends to: "text", "vision", or "both" (Versatile
            Diffusion).
        mixing: With "both": share of text in what attention adds (published 0.4).
        strength: Of the noise on the low-level image (published 0.75).
        guidance: Without a classifier (published 7.5).
        steps: Of DDIM (published 50).
        nothing: Tokens that say nothing, `token dim`, by "text" and "vision": the CLIP tokens of an
            empty sentence and of a black image. Text is made here where the pipeline has a text
            encoder. Needed for a guidance other than 1.
        size: Pixels of the images; the pipeline's own if not given.
        device: Where it runs.
        half: Networks in half precision (published); needs an accelerator.

    Raises:
        FileNotFoundError: The folder or its weights are missing; the error says how to get them.
        ValueError: No such device, or a pipeline without the parts.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        use: str = "text",
        mixing: float = 0.4,
        strength: float = 0.75,
        guidance: float = 7.5,
        steps: int = 50,
        nothing: dict[str, Tensor] | None = None,
        size: int | None = None,
        device: str = "cpu",
        half: bool = False,
    ) -> None:
        if use not in ("text", "vision", "both"):
            raise ValueError(f"DiffusersGenerator: use {use!r}, expected text, vision or both.")
        if not 0 <= mixing <= 1:
            raise ValueError(f"DiffusersGenerator: mixing {mixing}, expected 0 to 1.")
        self.folder = local_folder(
            path,
            config="model_index.json",
            what="a diffusers pipeline",
            example="shi-labs/versatile-diffusion",
            below=True,
        )
        place = check_device(device)
        if half and place.type == "cpu":
            raise ValueError("DiffusersGenerator: half precision needs an accelerator (device).")
        guard_torchaudio()
        diffusers = optional("diffusers")
        self.dtype = torch.float16 if half else torch.float32
        index = json.loads((self.folder / "model_index.json").read_text(encoding="utf-8"))
        kind = diffusers.DiffusionPipeline
        if use == "both" and str(index.get("_class_name")).startswith("VersatileDiffusion"):
            kind = diffusers.VersatileDiffusionDualGuidedPipeline  # joins both U-Nets to one
        self.pipeline: Any = kind.from_pretrained(self.folder, local_files_only=True)
        self.vae, self.unet = self._parts()
        for network in (self.vae, self.unet):
            network.to(place, self.dtype).eval().requires_grad_(False)
        self.use, self.mixing, self.device = use, mixing, place
        self.strength, self.guidance, self.steps = strength, guidance, steps
        self.nothing = dict(nothing or {})
        scheduler = self.pipeline.scheduler
        self.prediction = scheduler.config.get("prediction_type", "epsilon")
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"{self.folder}: the pipeline predicts {self.prediction!r}, known are "
                f"{PREDICTIONS}."
            )
        self.schedule = NoiseSchedule(alpha_bar=scheduler.alphas_cumprod).to(place)
        self.scale = float(getattr(self.vae.config, "scaling_factor", 0.18215))
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.size = size or int(self.unet.config.sample_size) * self.factor
        self._mix()

    def _parts(self) -> tuple[Any, Any]:
        found = dict(self.pipeline.components)
        unet = found.get("image_unet") or found.get("unet")
        scheduler = found.get("scheduler")
        has = {
            "vae": found.get("vae"),
            "unet": unet,
            "scheduler.alphas_cumprod": getattr(scheduler, "alphas_cumprod", None),
        }
        missing = [name for name, part in has.items() if part is None]
        if missing:
            raise ValueError(
                f"{self.folder}: {type(self.pipeline).__name__} has no {', '.join(missing)} (its "
                f"parts: {', '.join(found)}). Use a latent diffusion with a U-Net, such as Stable "
                "or Versatile Diffusion."
            )
        return found["vae"], unet

    def _mix(self) -> None:
        """Tell attention that takes two kinds of tokens how to mix them."""
        dual = [m for m in self.unet.modules() if type(m).__name__ == "DualTransformer2DModel"]
        if (self.use == "both") != bool(dual):
            raise ValueError(
                f"{self.folder}: use={self.use!r}, but the U-Net has {len(dual)} attentions to two "
                "kinds of tokens. 'both' is for Versatile Diffusion's image U-Net with dual "
                "attention, 'text' or 'vision' for all others."
            )
        for module in dual:
            module.mix_ratio = self.mixing
            # Blocks of newer versions pass a mask that this attention does not know.
            module.forward = _without_mask(module.forward)

    def latent_shape(self) -> tuple[int, ...]:
        """channel height width"""
        side = self.size // self.factor
        return (int(self.unet.config.in_channels), side, side)

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """Latents of images, resized (bicubic); the mean of the autoencoder's posterior."""
        resized = F.interpolate(
            images.to(self.device, torch.float32), (self.size,) * 2, mode="bicubic", antialias=True
        ).clamp(0, 1)
        posterior = self.vae.encode((2 * resized - 1).to(self.dtype)).latent_dist
        return posterior.mode().float() * self.scale

    def decode(self, latents: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Images of latents, not clamped."""
        return (self.vae.decode((latents / self.scale).to(self.dtype)).sample.float() + 1) / 2

    def denoise(self, z: Tensor, t: Tensor, vision: Tensor | None, text: Tensor | None) -> Tensor:
        """The noise in `z`, float32, whatever the network predicts."""
        tokens = self._tokens(vision, text).to(self.device, self.dtype).expand(len(z), -1, -1)
        said = self.unet(z.to(self.dtype), t, encoder_hidden_states=tokens).sample.float()
        signal, spread = self.schedule.scales(t, z)
        if self.prediction == "v_prediction":
            return signal * said + spread * z
        if self.prediction == "sample":
            return (z - signal * said) / spread
        return said

    def _tokens(self, vision: Tensor | None, text: Tensor | None) -> Tensor:
        given = {"text": text, "vision": vision}
        wanted = ("text", "vision") if self.use == "both" else (self.use,)
        for name in wanted:
            tokens = given[name]
            width = self.unet.config.cross_attention_dim
            if tokens is None:
                raise ValueError(f"DiffusersGenerator: use={self.use!r} needs {name} tokens.")
            if tokens.shape[-1] != width:
                raise ValueError(
                    f"DiffusersGenerator: {name} tokens of {tokens.shape[-1]} features, this "
                    f"pipeline attends to {width}. Predict the tokens of its own encoder."
                )
        if self.use == "both":
            for module in self.unet.modules():
                if type(module).__name__ == "DualTransformer2DModel":
                    # Text comes first below, and the second transformer reads it.
                    module.condition_lengths = [text.shape[1], vision.shape[1]]  # type: ignore
                    module.transformer_index_for_condition = [1, 0]
        return torch.cat([given[name].to(self.device) for name in wanted], dim=1)  # type: ignore

    def unconditional(
        self, vision: Tensor | None, text: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Tokens that say nothing; one row for all where none are given to be like.

        Raises:
            ValueError: They were not given and cannot be made here.
        """
        return self._empty("vision", vision), self._empty("text", text)

    def _empty(self, name: str, like: Tensor | None) -> Tensor | None:
        if self.use not in (name, "both"):
            return like
        if name == "text" and name not in self.nothing and self.use == "text":
            self._say_nothing()
        found = self.nothing.get(name)
        wanted = None if like is None else tuple(like.shape[1:])
        if found is None or wanted not in (None, tuple(found.shape)):
            shape = "none" if found is None else tuple(found.shape)
            raise ValueError(
                f"DiffusersGenerator: guidance {self.guidance} needs {name} tokens that say "
                f"nothing, of shape {wanted or 'token dim'} (there: {shape}). Pass nothing="
                f"{{{name!r}: ...}}, the tokens of "
                f"{'an empty sentence' if name == 'text' else 'a black image'}, or guidance=1."
            )
        return found.to(self.device).expand(1 if like is None else len(like), -1, -1)

    @torch.no_grad()
    def _say_nothing(self) -> None:
        encoder = self.pipeline.components.get("text_encoder")
        tokenizer = self.pipeline.components.get("tokenizer")
        if encoder is None or tokenizer is None:
            return
        ids = tokenizer(
            [""],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        self.nothing["text"] = encoder.to(self.device)(ids.to(self.device))[0][0].float()

    def generate(
        self,
        low_level: Float[Tensor, "batch 3 height width"] | None,
        vision_tokens: Float[Tensor, "batch token dim"] | None = None,
        text_tokens: Float[Tensor, "batch word dim_"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch 3 height_ width_"]:
        """Images from blurred ones and tokens; see `generate_images`."""

        def moved(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(self.device)

        images = generate_images(
            self,
            moved(low_level),
            moved(vision_tokens),
            moved(text_tokens),
            strength=self.strength,
            guidance=self.guidance,
            steps=self.steps,
            generator=generator,
        )
        return images.cpu()
