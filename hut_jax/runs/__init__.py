"""A config becomes a run, and a workdir becomes one again. Imports everything but the commands."""
