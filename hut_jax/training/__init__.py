"""The training step, the loop around it, the optimizer, checkpoints and the log.

May import parallel, transforms and core.
"""
