"""A transformation applied to some of a model's parameters: its sites, the interceptor, its files.

Imports transforms, parallel and core.
"""
