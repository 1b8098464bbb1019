"""Bytes of the protocols <-> ids, tensors, JSON. Pure, and without the numeric stack."""
