"""The `neurofm` command."""
