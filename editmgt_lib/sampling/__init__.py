"""Sampling tokens: options, noise, one step, the loop, and the predictor it calls."""

from .loop import StepEvent, sample_tokens
from .noise import ItemNoise, SharedNoise
from .options import SamplingOptions

__all__ = ["ItemNoise", "SamplingOptions", "SharedNoise", "StepEvent", "sample_tokens"]
