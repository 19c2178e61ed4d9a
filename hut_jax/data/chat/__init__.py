"""Instructions and conversations as training data. May import data and the folders below it."""
