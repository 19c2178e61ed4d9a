"""Plain text in blocks of tokens. Imports data and what lies below it."""
