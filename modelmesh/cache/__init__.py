"""This daemon's memory: events in, loads and unloads out. Pure."""
