"""GGUF, the files of llama.cpp, turned into Hugging Face folders. Imports nothing of ours but core."""
