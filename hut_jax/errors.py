"""The exceptions that callers of the library catch."""

from hut_jax.core.errors import Diverged, Interrupted, UserError

__all__ = ["Diverged", "Interrupted", "UserError"]
