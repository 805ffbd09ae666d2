"""Take activations apart: dictionaries of few directions, stand-ins for layers, groups of units."""

from neurofm.interpret.decomposition.association import (
    Association,
    associate,
    subject_specificity,
)
from neurofm.interpret.decomposition.dark_matter import (
    DarkMatter,
    compare_widths,
    dark_matter,
    explained,
    linear_error,
)
from neurofm.interpret.decomposition.faithfulness import (
    LatentEffects,
    LossRecovered,
    latent_effects,
    loss_recovered,
    matched,
    splice,
    stand_in,
)
from neurofm.interpret.decomposition.feature_cards import FeatureCard, Segment, feature_cards
from neurofm.interpret.decomposition.interaction_basis import (
    Basis,
    interaction_bases,
    interaction_basis,
    interaction_strengths,
    jacobian_moment,
    pca_basis,
    with_one,
)
from neurofm.interpret.decomposition.neuron_roles import NeuronRoles, neuron_roles
from neurofm.interpret.decomposition.quality import (
    Quality,
    closest,
    dead_fraction,
    judge_autoencoder,
    l0,
    unexplained,
)
from neurofm.interpret.decomposition.sae_training import (
    Training,
    auxiliary,
    geometric_median,
    learning_rate,
    train_autoencoder,
)
from neurofm.interpret.decomposition.selection import (
    above,
    batch_top_k,
    gradient_top_k,
    influence,
    top_afa,
    top_k,
)
from neurofm.interpret.decomposition.semi_nmf import SemiNMF, hierarchy, semi_nmf
from neurofm.interpret.decomposition.sparse_autoencoder import (
    SparseAutoencoder,
    head_shares,
    source_attribution,
)
from neurofm.interpret.decomposition.transcoder import (
    Transcoder,
    edge_attribution,
    train_transcoder,
)

__all__ = [
    "Association",
    "Basis",
    "DarkMatter",
    "FeatureCard",
    "LatentEffects",
    "LossRecovered",
    "NeuronRoles",
    "Quality",
    "Segment",
    "SemiNMF",
    "SparseAutoencoder",
    "Training",
    "Transcoder",
    "above",
    "associate",
    "auxiliary",
    "batch_top_k",
    "closest",
    "compare_widths",
    "dark_matter",
    "dead_fraction",
    "edge_attribution",
    "explained",
    "feature_cards",
    "geometric_median",
    "gradient_top_k",
    "head_shares",
    "hierarchy",
    "influence",
    "interaction_bases",
    "interaction_basis",
    "interaction_strengths",
    "jacobian_moment",
    "judge_autoencoder",
    "l0",
    "latent_effects",
    "learning_rate",
    "linear_error",
    "loss_recovered",
    "matched",
    "neuron_roles",
    "pca_basis",
    "semi_nmf",
    "source_attribution",
    "splice",
    "stand_in",
    "subject_specificity",
    "top_afa",
    "top_k",
    "train_autoencoder",
    "train_transcoder",
    "unexplained",
    "with_one",
]
