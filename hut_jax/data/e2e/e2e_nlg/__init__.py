"""The E2E NLG dataset as a TFDS builder."""
