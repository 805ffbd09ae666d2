"""Categories decoded from patterns of fMRI: one pattern per block or trial, whole runs left out."""

from neurofm.evaluate.patterns.around import ChosenByRuns, Ensemble, NoiseWhitened, OverVolumes
from neurofm.evaluate.patterns.decode import (
    DecodedPatterns,
    decode_patterns,
    permuted_patterns,
    run_folds,
    summarize_runs,
)
from neurofm.evaluate.patterns.discriminants import (
    CorrelationClassifier,
    LinearDecoder,
    PatternDecoder,
    ShrinkageLDA,
)
from neurofm.evaluate.patterns.extract import centre_runs, trial_patterns
from neurofm.evaluate.patterns.maps import WeightMap, haufe_patterns, weight_map
from neurofm.evaluate.patterns.named import DECODERS, make_decoder, volumes_decoder
from neurofm.evaluate.patterns.over_volumes import decode_volumes
from neurofm.evaluate.patterns.rotated import Rotated, RotatedLinear

__all__ = [
    "DECODERS",
    "ChosenByRuns",
    "CorrelationClassifier",
    "DecodedPatterns",
    "Ensemble",
    "LinearDecoder",
    "NoiseWhitened",
    "OverVolumes",
    "PatternDecoder",
    "Rotated",
    "RotatedLinear",
    "ShrinkageLDA",
    "WeightMap",
    "centre_runs",
    "decode_patterns",
    "decode_volumes",
    "haufe_patterns",
    "make_decoder",
    "permuted_patterns",
    "run_folds",
    "summarize_runs",
    "trial_patterns",
    "volumes_decoder",
    "weight_map",
]
