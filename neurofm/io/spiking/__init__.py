"""Sorted units and calcium imaging."""
