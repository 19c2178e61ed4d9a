"""Code that all other folders use: one-line errors, files written whole or not at all, trees, sections of a config.

May import no other folder.
"""
