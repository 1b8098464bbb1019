"""ModelMesh's successor: a fleet of identical daemons that serve thousands of models."""

__version__ = "0.1.0"
