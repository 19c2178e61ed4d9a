"""The E2E NLG dataset as a TFDS builder. May import data/e2e."""
