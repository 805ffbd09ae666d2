"""Tokens of prepared recordings: made once, kept in a store, read in place of the signal."""
