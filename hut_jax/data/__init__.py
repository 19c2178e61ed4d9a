"""Tokens from files (E2E, GLUE, plain text), and batches of tokens. May import parallel and core."""
