"""The FLOPs of a function, counted from its shapes or by XLA. May import core."""
