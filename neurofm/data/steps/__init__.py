"""Preprocessing steps: a `Signal` in, a `Signal` out."""
