"""Scores, from predictions and references. May import core."""
