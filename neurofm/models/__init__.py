"""Networks: from a batch to an embedding."""

from neurofm.models.braindecode import BraindecodeModel
from neurofm.models.brainomni import BrainOmni
from neurofm.models.dbconformer import DBConformer, DBConformerHead
from neurofm.models.du_in import DuIn, DuInClassifier, DuInHead, for_new_subjects
from neurofm.models.fleeg import FLEEG, FLEEGClients
from neurofm.models.functional_network import FunctionalNetwork
from neurofm.models.meg_gpt import MegGPT
from neurofm.models.mirepnet import MIRepNet
from neurofm.models.mvcnet import MVCNet
from neurofm.models.patch_transformer import PatchTransformer
from neurofm.models.spdnet import SPDNet
from neurofm.models.tfm import TFMEncoder

__all__ = [
    "BraindecodeModel",
    "BrainOmni",
    "DBConformer",
    "DBConformerHead",
    "DuIn",
    "DuInClassifier",
    "DuInHead",
    "FLEEG",
    "FLEEGClients",
    "FunctionalNetwork",
    "MegGPT",
    "MIRepNet",
    "MVCNet",
    "PatchTransformer",
    "SPDNet",
    "TFMEncoder",
    "for_new_subjects",
]
