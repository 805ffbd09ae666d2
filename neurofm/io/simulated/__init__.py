"""Simulated recordings whose answer is known."""
