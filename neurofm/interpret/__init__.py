"""Explain any nn.Module: activations, similarity, attribution."""
