"""The training step, the loop around it, the optimizer, checkpoints and the log. Imports parallel and core alone."""
