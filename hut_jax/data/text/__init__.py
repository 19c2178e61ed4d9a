"""Plain text as blocks of tokens. May import data and the folders below it."""
