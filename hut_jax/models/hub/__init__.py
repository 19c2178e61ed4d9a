"""Hugging Face's checkpoints, read into our models and written from them. Imports models and what lies below it."""
