"""What only the composition root can get wrong: the parts are there, but are they connected?"""

from tests.app.daemon import running


def test_the_rest_port_tells_the_daemons_own_metrics() -> None:
    with running(tier="inline") as daemon:
        daemon.dummies("m")
        told = daemon.rest("GET", "/metrics").body.decode()
        assert "modelmesh_models_managed_total 1.0" in told
    with running(tier="inline", metrics="disabled") as daemon:
        assert daemon.rest("GET", "/metrics").status == 404
