"""Figures of the README, measured: `make bench`. Never asserted, never in a test."""
