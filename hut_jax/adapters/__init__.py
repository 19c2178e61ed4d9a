"""Adapters: a transformation at some sites of a model, applied by an interceptor; their banks and files.

May import transforms, parallel and core.
"""
