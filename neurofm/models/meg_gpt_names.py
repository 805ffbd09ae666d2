"""Names of the tensors of published MEG-GPT checkpoints.

Source: OHBA-analysis/MEG-GPT (MIT), at revision 78ff943.
"""

from __future__ import annotations

import re

from torch import Tensor


def rename_meg_gpt(
    state_dict: dict[str, Tensor], *, plain_norms: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Keys of the original as those of `MegGPT`, and apart from them the tokenizer's own.

    Lightning's `model.` in front is dropped, and so are attention masks: they are computed.

    Args:
        plain_norms: The norms are layer norms, which have no module around them here.
    """
    renamed, tokenizer = {}, {}
    for key, value in state_dict.items():
        key = key.removeprefix("model.")
        if key.startswith("tokenizer."):
            tokenizer[key.removeprefix("tokenizer.")] = value
        elif not _COMPUTED.search(key):
            for old, new in _RENAMED:
                key = re.sub(old, new, key)
            if not plain_norms:
                key = re.sub(r"(_norm)\.(?!layer)", r"\1.layer.", key)
            renamed[key] = value
    return renamed, tokenizer


_COMPUTED = re.compile(r"\.attention_mask$")
_RENAMED = (
    (r"^input_embedding_layer\.token_embed\.", "embedding.token."),
    (r"^input_embedding_layer\.pos_embed\.", "embedding.position."),
    (r"^input_embedding_layer\.channel_embed\.", "embedding.channel."),
    (r"^input_embedding_layer\.extra_embeds\.", "embedding.labels."),
    (r"\.base_module\.(weight|position_embeddings)$", ".table"),
    (r"\.proj\.", ".project."),
    (r"^transformer_decoder\.input_projection\.", "project."),
    (r"^transformer_decoder\.layers\.", "layers."),
    (r"\.norm_chan1\.norm_layer\.", ".channels.attention_norm."),
    (r"\.norm_chan2\.norm_layer\.", ".channels.feedforward_norm."),
    (r"\.norm_time1\.norm_layer\.", ".time_norm."),
    (r"\.norm_time2\.norm_layer\.", ".feedforward_norm."),
    (r"\.ff_chan\.net\.", ".channels.feedforward."),
    (r"\.ff_time\.net\.", ".feedforward."),
    (r"\.chan_att_dim_proj\.", ".channels.project."),
    (r"\.gasp_chan_attention\.", ".channels.attention."),
    (r"\.gasp_time_attention\.", ".time_attention."),
    (r"\.gasp_cross_attention\.", ".cross_attention."),
    (r"\.patch_projection_k\.", ".compress_key."),
    (r"\.patch_projection_v\.", ".compress_value."),
    (r"\.unpatched_projection_k\.", ".recent_key."),
    (r"\.unpatched_projection_v\.", ".recent_value."),
    (r"\.patched_projection_k\.", ".key."),
    (r"\.patched_projection_v\.", ".value."),
    (r"\.query_projection\.", ".query."),
    (r"\.output_projection\.", ".out."),
    (r"^prediction_head\.", "head."),
)
