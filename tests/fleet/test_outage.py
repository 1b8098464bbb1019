"""A fleet whose store dies or hangs: inference goes on, cold loads of known models included.

Management says UNAVAILABLE meanwhile; when the store is back, records and daemons agree again.
"""

import pytest

from tests.fleet.conftest import StartFleet
from tests.fleet.fleet import comes_true
from tests.fleet.known import (
    ALL,
    LEASE_S,
    WARM,
    all_said,
    converges,
    serve_cold,
    still_loaded,
    warm,
)
from tests.fleet.traffic import Traffic
from tests.registry.etcd_server import EtcdServer

pytestmark = pytest.mark.timeout(900)

OUTAGE_S = 60  # many leases long


def test_killed(own_etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(own_etcd, *ALL, MM_LEASE_SECS=str(LEASE_S))
    warm(fleet)
    loads = fleet.loads()
    with Traffic(fleet.targets, WARM, rate=100) as traffic:
        own_etcd.kill()
        comes_true(all_said(fleet, "the registry's store does not answer"))
        assert serve_cold(fleet, "x"), "none was cold"
        assert fleet.any.refused_registration("new").code == "UNAVAILABLE"
        assert fleet.any.refused("new").code == "UNAVAILABLE", "it may be registered elsewhere"
        refusal = fleet.any.predict("new")
        assert (refusal.status, refusal.headers["retry-after"]) == (503, "1")
        traffic.more(100 * OUTAGE_S)
        own_etcd.start()
        comes_true(all_said(fleet, "the registry's store answers again"))
        serve_cold(fleet, "y")
        converges(fleet)
    traffic.report.assert_all_right(100 * OUTAGE_S)
    assert not traffic.report.broken
    still_loaded(fleet, loads + 12)


def test_paused_past_the_lease(own_etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(own_etcd, *ALL, MM_LEASE_SECS=str(LEASE_S))
    warm(fleet)
    loads, epochs = fleet.loads(), {k: v.epoch for k, v in fleet.instances().items()}
    with Traffic(fleet.targets, WARM, rate=100) as traffic:
        own_etcd.pause()
        comes_true(all_said(fleet, "the registry's store does not answer"))
        assert serve_cold(fleet, "x"), "none was cold"
        traffic.more(100 * LEASE_S * 2)
        own_etcd.resume()
        comes_true(lambda: {k: v.epoch for k, v in fleet.instances().items()}.keys() == set(ALL))
        comes_true(
            lambda: any(v.epoch > epochs[k] for k, v in fleet.instances().items())
        )  # the leases had expired: that was the fault
        serve_cold(fleet, "y")
        converges(fleet)
    traffic.report.assert_all_right(100 * LEASE_S * 2)
    still_loaded(fleet, loads + 12)
