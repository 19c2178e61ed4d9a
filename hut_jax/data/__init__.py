"""Sources (E2E, plain text) -> tokens -> batches."""
