"""Names of the transformer brain encoder: its areas, and the keys of published checkpoints.

Source: Algonauts Project 2023 (areas); Hosseinadeli/transformer_brain_encoder (keys).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of the Algonauts 2023 masks, and what lies in none of them.
ALGONAUTS = (
    *("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    *("EBA", "FBA-1", "FBA-2", "mTL-bodies", "OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    *("OPA", "PPA", "RSC", "OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words", "other"),
)
_RENAMED = (
    *(("transformer.encoder.", "memory."), ("transformer.decoder.", "routing.")),
    *((".multihead_attn.", ".attention."), (".cross_attn.", ".")),
    *((".linear1.", ".feedforward.linear1."), (".linear2.", ".feedforward.linear2.")),
    *(("query_embed.weight", "queries"), ("spatial_embed.weight", "fields")),
    *(("lh_embed.0.", "left."), ("rh_embed.0.", "right."), ("backbone_model.1.", "positions.")),
)
_NEVER_READ = (".memory_proj.", ".c_attn.", ".v_proj.")


def rename(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the original's `model` as ours, see `TransformerBrainEncoder.rename_keys`."""
    custom = any(".cross_attn." in key for key in state_dict)
    new: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        unused = any(part in key for part in _NEVER_READ)
        unused |= ".decoder." in key and ".self_attn." in key
        unused |= custom and ".decoder." in key and (".norm1." in key or ".norm2." in key)
        if unused:
            continue
        for old, ours in _RENAMED:
            key = key.replace(old, ours)
        new[key] = value
    asked = new.get("queries", new.get("fields"))
    sizes = [len(new[f"{side}.bias"]) for side in ("left", "right") if f"{side}.bias" in new]
    if asked is not None and len(sizes) == 2 and len(asked) != sum(sizes):
        n, like = len(asked) // 2, asked
        for side, size in zip(("left", "right"), sizes, strict=True):
            mask = torch.full((n, size), n == 1, dtype=torch.bool, device=like.device)
            new[f"{side}_masks"] = mask
    return new
