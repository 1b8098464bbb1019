"""Nouns that everybody shares: names and records. Pure."""
