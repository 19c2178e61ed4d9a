"""From a config to a run, from a workdir back to one, and what the commands share. Imports everything but the commands."""
