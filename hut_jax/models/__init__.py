"""The models in Flax Linen, and their Hugging Face files."""
