"""How many calls one model may have in flight.

A model that is slower than its callers would otherwise fill the daemon with bodies. Pure.
"""

HOSTED_MOST = 1024
UNLIMITED = -1


def inflight_limit(setting: int, max_concurrency: int, *, external: bool) -> int:
    """Calls in flight per model: the operator's number, or ModelMesh's rule where it is 0.

    Negative: unlimited. 0: 1,024 for our own hosts; max(16, 8 x maxConcurrency) for an external
    runtime that limits a model's concurrency, none for one that does not.
    """
    if setting != 0:
        return setting if setting > 0 else UNLIMITED
    if not external:
        return HOSTED_MOST
    return max(16, 8 * max_concurrency) if max_concurrency > 0 else UNLIMITED
