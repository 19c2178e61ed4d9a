"""Hugging Face's checkpoints, read and written. May import models and the folders below it."""
