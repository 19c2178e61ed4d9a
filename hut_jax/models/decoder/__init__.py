"""One causal decoder for Llama, Mistral, Qwen 2 and 3, Gemma 2 and 3, SmolLM3 and Phi-3, and their config.json.

May import the modules of models and the folders below it.
"""
