"""Door 4: where a model's files come from."""
