"""From files (E2E, GLUE, plain text) to tokens, and from tokens to batches. May import parallel and core."""
