"""Layers with no knowledge of brains."""
