"""From a config to a run, from a workdir back to one, and what the commands share. Imports all but the commands."""
