"""The tasks of GLUE and their files. May import data and the folders below it."""
