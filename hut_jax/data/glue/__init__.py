"""The tasks of GLUE and their files. Imports data and what lies below it."""
