"""One causal decoder for Llama, Mistral, Qwen 2 and 3, Gemma 2 and 3, SmolLM3 and Phi-3; their config.json."""
