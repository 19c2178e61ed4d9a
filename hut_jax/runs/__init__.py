"""A run from its config, and again from its workdir. May import all other folders, and the config."""
