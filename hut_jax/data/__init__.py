"""Tokens from files (E2E, GLUE, plain text), batches of tokens, and a loss's form. May import parallel and core."""
