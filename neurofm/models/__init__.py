"""Networks: from a batch to an embedding."""
