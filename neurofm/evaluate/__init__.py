"""Protocols and classical baselines."""
