"""What only the composition root can get wrong: the parts are there, but are they connected?"""

from tests.app.daemon import running
from tests.runtime.external_server import Hanging


def test_the_rest_port_tells_the_daemons_own_metrics() -> None:
    with running(tier="inline") as daemon:
        daemon.dummies("m")
        told = daemon.rest("GET", "/metrics").body.decode()
        assert "modelmesh_models_managed_total 1.0" in told
    with running(tier="inline", metrics="disabled") as daemon:
        assert daemon.rest("GET", "/metrics").status == 404


def test_a_model_server_that_hangs_meets_the_operators_timeout() -> None:
    server = Hanging()
    try:
        with running(runtime_port=server.port, predict_timeout_s=0.3) as daemon:
            daemon.dummies("hung", concurrency=1)
            assert daemon.refused("hung").why == ("DEADLINE_EXCEEDED", "PREDICT_TIMEOUT")
    finally:
        server.stop()
