"""Prepared recordings on disk: blocks, index, damage; local or remote."""
