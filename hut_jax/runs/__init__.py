"""Runs: made from a config, or loaded from a workdir. May import all other folders, and the config."""
