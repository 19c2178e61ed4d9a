"""Text from a causal model over a KV cache: beam search, greedy and sampling."""

from hut_jax.generation.beam import BeamSearch, Hypothesis, beam_search
from hut_jax.generation.constraints import Limits
from hut_jax.generation.sampling import Sampling, greedy, sample

__all__ = ["BeamSearch", "Hypothesis", "Limits", "Sampling", "beam_search", "greedy", "sample"]
