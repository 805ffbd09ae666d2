"""LightningModules: a model plus a reason to train it."""

from neurofm.tasks.base import Task
from neurofm.tasks.decode import Decode
from neurofm.tasks.decode_views import DecodeViews
from neurofm.tasks.federated import Federated, federated_mean
from neurofm.tasks.pretrain import Pretrain
from neurofm.tasks.token_cache import TokenCache
from neurofm.tasks.tokenizer import TrainTokenizer

__all__ = [
    "Decode",
    "DecodeViews",
    "Federated",
    "Pretrain",
    "Task",
    "TokenCache",
    "TrainTokenizer",
    "federated_mean",
]
