"""Recordings to a store, by one process or many."""
