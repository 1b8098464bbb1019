"""Door 1: what is registered, durable and watched."""
