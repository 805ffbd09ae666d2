"""Networks: from a batch to an embedding."""

from neurofm.models.brain_module import BrainModule, ImageBrainModule
from neurofm.models.braincorl import BraInCoRL
from neurofm.models.braindecode import BraindecodeModel
from neurofm.models.brainomni import BrainOmni
from neurofm.models.conv_recurrent import ConvRNNEncoder
from neurofm.models.dbconformer import DBConformer, DBConformerHead
from neurofm.models.du_in import DuIn, DuInClassifier, DuInHead, for_new_subjects
from neurofm.models.encoder_attender_decoder import (
    EncoderAttenderDecoder,
    GPTAttender,
    StepsDecoder,
)
from neurofm.models.feature_map_readouts import (
    AttentionLinearReadout,
    FactorisedReadout,
    GaussianReadout,
    GlobalLinearReadout,
    LinearReadout,
)
from neurofm.models.fleeg import FLEEG, FLEEGClients
from neurofm.models.functional_network import FunctionalNetwork
from neurofm.models.gabor_core import GaborCore
from neurofm.models.latent_dynamics import (
    CopyDynamics,
    CTRNNDynamics,
    FrozenFrames,
    LatentSimulator,
    LSTMDynamics,
    MLPDynamics,
)
from neurofm.models.meg_gpt import MegGPT
from neurofm.models.mirepnet import MIRepNet
from neurofm.models.mvcnet import MVCNet
from neurofm.models.parcel_transformer import ParcelTransformer
from neurofm.models.patch_transformer import PatchTransformer
from neurofm.models.response_model import CoreReadout
from neurofm.models.semantic_readout import Localiser, SemanticReadout
from neurofm.models.spdnet import SPDNet
from neurofm.models.tfm import TFMEncoder
from neurofm.models.transformer_brain_encoder import TransformerBrainEncoder, ensemble_weights
from neurofm.models.tribe import Tribe
from neurofm.models.vision_networks import VisionGrid, VisionMaps
from neurofm.models.visual_cores import ConvCore, FrozenCore, LanguageCore, map_size
from neurofm.models.voxel_weights import VoxelWeights, check_unit_norm, predict_each
from neurofm.models.wave import WAVE

__all__ = [
    "AttentionLinearReadout",
    "BraInCoRL",
    "BraindecodeModel",
    "BrainModule",
    "BrainOmni",
    "ConvCore",
    "ConvRNNEncoder",
    "CopyDynamics",
    "CoreReadout",
    "CTRNNDynamics",
    "DBConformer",
    "DBConformerHead",
    "DuIn",
    "DuInClassifier",
    "DuInHead",
    "EncoderAttenderDecoder",
    "FactorisedReadout",
    "FLEEG",
    "FLEEGClients",
    "FrozenCore",
    "FrozenFrames",
    "FunctionalNetwork",
    "GaborCore",
    "GaussianReadout",
    "GlobalLinearReadout",
    "GPTAttender",
    "ImageBrainModule",
    "LanguageCore",
    "LatentSimulator",
    "LinearReadout",
    "Localiser",
    "LSTMDynamics",
    "MegGPT",
    "MIRepNet",
    "MLPDynamics",
    "MVCNet",
    "ParcelTransformer",
    "PatchTransformer",
    "SemanticReadout",
    "SPDNet",
    "StepsDecoder",
    "TFMEncoder",
    "TransformerBrainEncoder",
    "Tribe",
    "VisionGrid",
    "VisionMaps",
    "VoxelWeights",
    "WAVE",
    "check_unit_norm",
    "ensemble_weights",
    "for_new_subjects",
    "map_size",
    "predict_each",
]
