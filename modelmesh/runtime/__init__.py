"""Door 3: where models run, and what happens when one takes its host down."""
