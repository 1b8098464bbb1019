"""Where decisions meet doors: one daemon's models, from request to answer."""
