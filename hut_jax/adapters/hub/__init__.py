"""Adapters on the Hugging Face Hub: their model card, and the way there. Imports core alone, and the adapter."""
