"""A whole fleet in one process: real daemons on doors in memory, one virtual clock, one seed.

Because decisions are pure and I/O lives at the doors, nothing of a daemon has to be replaced but
the doors; a schedule of faults that goes wrong is repeated by its seed.
Must never be imported by what it simulates.
"""
