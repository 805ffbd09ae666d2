"""Functional images: volumes, surfaces, parcels, patterns."""
