"""Names of published tokenizers' tensors as ours."""

from __future__ import annotations

import re

from torch import Tensor


def rename_brain_tokenizer(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the original BrainTokenizer as ours; unknown keys come back unchanged."""
    found = [_ENCODER_LAYER.search(key) for key in state_dict]
    last = max((int(match[1]) for match in found if match), default=0)
    return {_rename(key, last): value for key, value in state_dict.items()}


_RENAMED = (
    ("sensor_embed.pos_embedding_layer.", "sensors.geometry."),
    ("sensor_embed.sensor_embedding_layer.", "sensors.kind."),
    ("sensor_embed.aggregate_mlp.layer.", "sensors.feedforward."),
    ("sensor_embed.norm.", "sensors.norm."),
    ("encoder.neuros", "compression.sources"),
    ("encoder.k_proj.", "compression.key."),
    ("encoder.backwardsolution.v.", "compression.value."),
    ("encoder.backwardsolution.proj.", "compression.out."),
    ("decoder.forwardsolution.kv.", "expansion.key_value."),
    ("decoder.forwardsolution.proj.", "expansion.out."),
    ("quantizer.rvq.layers.", "quantizer.levels."),
    ("._codebook.inited", ".initialized"),
    ("._codebook.cluster_size", ".count"),
    ("._codebook.embed_avg", ".codebook_sum"),
    ("._codebook.embed", ".codebook"),
    (".weight_g", ".parametrizations.weight.original0"),
    (".weight_v", ".parametrizations.weight.original1"),
)


_ENCODER_LAYER = re.compile(r"seanet_encoder\.model\.(\d+)\.")
_SEANET = re.compile(
    r"(encoder|decoder)\.seanet_\1\.model\.(\d+)\."
    r"(block\.1\.conv|block\.3\.conv|shortcut\.conv|lstm|convtr|conv)\."
)


def _rename(key: str, last: int) -> str:
    """One key; `last` is the index of the encoder's last layer, which tells the stages apart."""

    def layer(match: re.Match[str]) -> str:
        side, index, part = match[1], int(match[2]), match[3]
        if part == "lstm":
            return f"{side}.lstm.lstm."
        if part.startswith(("block", "shortcut")):
            name = {"block.1.conv": "narrow", "block.3.conv": "widen", "shortcut.conv": "shortcut"}
            return f"{side}.blocks.{(index - 1) // 3 - (side == 'decoder')}.{name[part]}."
        if part == "convtr":
            return f"{side}.upsample.{index // 3 - 1}."
        if index == 0:
            return f"{side}.first."
        if side == "decoder" or index == last:
            return f"{side}.last."
        return f"{side}.downsample.{index // 3 - 1}."

    key = _SEANET.sub(layer, key).replace(".convtr.", ".conv.")
    for old, new in _RENAMED:
        key = key.replace(old, new)
    return key
