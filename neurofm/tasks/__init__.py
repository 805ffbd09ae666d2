"""LightningModules: a model plus a reason to train it."""
