"""What runs in model hosts. It knows pb, codec and wire, and nothing of the daemon."""
