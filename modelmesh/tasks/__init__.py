"""Slow loops of a fleet. None yet: a daemon alone has nothing to reap, publish or scale."""
