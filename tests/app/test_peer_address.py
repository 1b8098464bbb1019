"""Whether the others reach what is published is asked before anything is opened."""

import asyncio
from pathlib import Path

import pytest

from modelmesh import assembly
from modelmesh.errors import Code, MeshError
from modelmesh.settings import Settings


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"host": "0.0.0.0"}, "MM_BIND_HOST=0.0.0.0"),
        ({"host": "::"}, "MM_BIND_HOST=::"),
        ({"peer_host": "0.0.0.0"}, "WKUBE_POD_IPADDR=0.0.0.0"),
    ],
)
def test_an_address_that_nobody_can_call_stops_the_start(
    settings: dict[str, str], named: str, tmp_path: Path
) -> None:
    wanted = Settings(kv_store="etcd:127.0.0.1:1", data_dir=str(tmp_path), **settings)  # type: ignore[arg-type]
    with pytest.raises(MeshError, match=named) as refused:
        asyncio.run(assembly.open_store(wanted))
    assert refused.value.failure.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("settings", "endpoints", "doubtful"),
    [
        ({}, ["127.0.0.1:2379"], False),
        ({}, ["localhost:2379", "[::1]:2379"], False),
        ({}, ["10.0.0.1:2379"], True),
        ({}, ["127.0.0.1:2379", "etcd.example:2379"], True),
        ({"peer_host": "10.0.0.2"}, ["10.0.0.1:2379"], False),
        ({"host": "10.0.0.2"}, ["10.0.0.1:2379"], False),
        ({"host": "0.0.0.0", "peer_host": "10.0.0.2"}, ["10.0.0.1:2379"], False),
        ({"host": "0.0.0.0", "peer_address": "me.example:1"}, ["10.0.0.1:2379"], False),
    ],
)
def test_a_loopback_address_is_doubtful_where_etcd_is_elsewhere(
    settings: dict[str, str], endpoints: list[str], doubtful: bool
) -> None:
    hint = assembly.doubt_of_address(Settings(**settings), endpoints)  # type: ignore[arg-type]
    assert bool(hint) is doubtful
