"""Decisions as pure functions. Policies are strangers to each other."""
