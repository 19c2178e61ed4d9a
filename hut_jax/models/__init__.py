"""GPT-2, RoBERTa and BERT in Flax Linen, and their Hugging Face files. May import interop and the folders below it."""
