"""Adapters on the Hugging Face Hub: model card and upload. Imports `adapters/adapter.py` and core."""
