"""Every daemon is replaced, one after the other, under load: nobody notices."""

import pytest

from tests.fleet.conftest import StartFleet
from tests.fleet.fleet import comes_true
from tests.fleet.known import MANY, spread
from tests.fleet.traffic import Traffic
from tests.registry.etcd_server import EtcdServer

LONG_S = 900.0
REQUESTS = 100_000


@pytest.mark.timeout(1800)
def test_rolling_restart(etcd: EtcdServer, start_fleet: StartFleet) -> None:
    fleet = start_fleet(etcd, "a", "b", "c", SHUTDOWN_TIMEOUT_MS="12000")
    spread(fleet)
    with Traffic(fleet.targets, MANY, in_flight=8) as traffic:
        for member in fleet:
            traffic.more(REQUESTS // 4, LONG_S)
            member.restart()
        traffic.more(max(REQUESTS - traffic.report.right, REQUESTS // 4), LONG_S)
    report = traffic.report
    report.assert_all_right(REQUESTS)
    assert not report.broken, "a request was lost with its connection"
    assert all(len(member.lives) == 2 for member in fleet)
    assert all(report.refused[member.target] for member in fleet), "one was never away"
    comes_true(fleet.settled)
