"""From windows to tokens."""
