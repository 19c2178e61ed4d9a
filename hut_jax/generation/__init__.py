"""Text from a causal model: beam search, greedy decoding and sampling. May import models and the folders below it."""

from hut_jax.generation.beam import Beam
from hut_jax.generation.constraints import Constraints
from hut_jax.generation.decoding import generate
from hut_jax.generation.method import Continuation, Method
from hut_jax.generation.sampling import Greedy, Sampling

__all__ = ["Beam", "Constraints", "Continuation", "Greedy", "Method", "Sampling", "generate"]
