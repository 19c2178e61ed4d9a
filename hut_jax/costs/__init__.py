"""The FLOPs of a model with and without an adapter. Imports core alone."""
