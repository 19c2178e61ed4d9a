"""Bases for experiments, made from packages that carry them."""
