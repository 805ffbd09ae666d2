"""LightningModules: a model plus a reason to train it."""

from neurofm.tasks.adaptations import (
    IA3,
    Adaptation,
    DoRA,
    Full,
    LayerwiseDecay,
    LoRA,
    Modes,
    Partial,
    Probe,
    TwoStage,
    fraction_on,
    overlap,
    plain_model,
    trained_parameters,
    units,
)
from neurofm.tasks.adaptations.adapter_files import load_adapters, save_adapters
from neurofm.tasks.base import Task
from neurofm.tasks.decode import Decode
from neurofm.tasks.decode_views import DecodeViews
from neurofm.tasks.encode import Encode
from neurofm.tasks.encode_in_context import EncodeInContext, meta_train, weight_loss
from neurofm.tasks.federated import Federated, federated_mean
from neurofm.tasks.monitor import DriftMonitor, MassiveActivationMonitor, NotFiniteMonitor
from neurofm.tasks.pretrain import Pretrain
from neurofm.tasks.retrieve import Retrieve, search_scores
from neurofm.tasks.token_cache import TokenCache
from neurofm.tasks.tokenizer import TrainTokenizer

__all__ = [
    "Adaptation",
    "Decode",
    "DecodeViews",
    "DoRA",
    "DriftMonitor",
    "Encode",
    "EncodeInContext",
    "Federated",
    "Full",
    "IA3",
    "LayerwiseDecay",
    "LoRA",
    "MassiveActivationMonitor",
    "Modes",
    "NotFiniteMonitor",
    "Partial",
    "Pretrain",
    "Probe",
    "Retrieve",
    "Task",
    "TokenCache",
    "TrainTokenizer",
    "TwoStage",
    "federated_mean",
    "fraction_on",
    "load_adapters",
    "meta_train",
    "overlap",
    "plain_model",
    "save_adapters",
    "search_scores",
    "trained_parameters",
    "units",
    "weight_loss",
]
