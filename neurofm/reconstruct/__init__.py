"""From brain to stimulus: images, captions and shapes from responses, and stimuli for regions."""

from neurofm.reconstruct.ablation import Ablation, ROIAblation
from neurofm.reconstruct.brain_diffuser import (
    TARGETS,
    BrainDiffuser,
    VoxelScale,
    split_latents,
)
from neurofm.reconstruct.captions import (
    Captioner,
    CaptionScore,
    RetrievalCaptioner,
    TransformersCaptioner,
    score_captions,
)
from neurofm.reconstruct.diffusers_generator import DiffusersGenerator
from neurofm.reconstruct.diffusion import (
    ImageGenerator,
    LatentDiffusion,
    NoiseSchedule,
    generate_images,
    guided,
    sample,
)
from neurofm.reconstruct.distillation import DistilledSolids, score_distillation
from neurofm.reconstruct.dual_roi import DualROIEncoder, stabilise, symmetric_clip
from neurofm.reconstruct.guidance import (
    GuidedImages,
    ResponseGuidance,
    SelfAttentionGuidance,
    images_for_region,
    synthesise,
)
from neurofm.reconstruct.projection import (
    VoxelCaptions,
    caption_voxels,
    nearest_captions,
    nearest_images,
    project_onto_images,
)
from neurofm.reconstruct.roi_synthesis import RegionImages, optimal_images, region_activity
from neurofm.reconstruct.saved import load_part, save_part
from neurofm.reconstruct.scenes import SceneBrain, Scenes, draw_scenes, encode_words
from neurofm.reconstruct.scores import score_images
from neurofm.reconstruct.small_clip import SmallCLIP, train_small_clip
from neurofm.reconstruct.small_generator import SmallGenerator, train_prior, train_small_generator
from neurofm.reconstruct.small_networks import DiffusionPrior, SmallAutoencoder, SmallDenoiser
from neurofm.reconstruct.solids import (
    Generator3D,
    OccupancyDecoder,
    Solids,
    equal_azimuths,
    render,
    score_views,
    train_occupancy,
)
from neurofm.reconstruct.study import Study, corpus_study, scene_study, selective_voxels
from neurofm.reconstruct.voxel_encoder import LinearVoxelEncoder

__all__ = [
    "TARGETS",
    "Ablation",
    "BrainDiffuser",
    "CaptionScore",
    "Captioner",
    "DiffusersGenerator",
    "DiffusionPrior",
    "DistilledSolids",
    "DualROIEncoder",
    "Generator3D",
    "GuidedImages",
    "ImageGenerator",
    "LatentDiffusion",
    "LinearVoxelEncoder",
    "NoiseSchedule",
    "OccupancyDecoder",
    "ROIAblation",
    "RegionImages",
    "ResponseGuidance",
    "RetrievalCaptioner",
    "SceneBrain",
    "Scenes",
    "SelfAttentionGuidance",
    "SmallAutoencoder",
    "SmallCLIP",
    "SmallDenoiser",
    "SmallGenerator",
    "Solids",
    "Study",
    "TransformersCaptioner",
    "VoxelCaptions",
    "VoxelScale",
    "caption_voxels",
    "corpus_study",
    "draw_scenes",
    "encode_words",
    "equal_azimuths",
    "generate_images",
    "guided",
    "images_for_region",
    "load_part",
    "nearest_captions",
    "nearest_images",
    "optimal_images",
    "project_onto_images",
    "region_activity",
    "render",
    "sample",
    "save_part",
    "scene_study",
    "score_captions",
    "score_distillation",
    "score_images",
    "score_views",
    "selective_voxels",
    "split_latents",
    "stabilise",
    "symmetric_clip",
    "synthesise",
    "train_occupancy",
    "train_prior",
    "train_small_clip",
    "train_small_generator",
]
