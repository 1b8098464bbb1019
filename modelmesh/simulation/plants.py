"""Bugs put into real daemons on purpose: a simulation that does not find them finds nothing."""

from typing import Final

from modelmesh.simulation.world import Parts


class Plant(Parts):
    """One bug. `seed`: the first that finds it."""

    what = ""
    seed = -1


PLANTS: Final[dict[str, type[Plant]]] = {}
