"""GPT-2, RoBERTa, BERT and other decoders in Flax Linen, and their Hugging Face files.

May import interop and the folders below it.
"""
