"""What `modelmesh up` decides: ports, command lines, pauses, the file, the table."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.cli.tables import columns
from modelmesh.cli.up import restarts, rows
from modelmesh.cli.up.children import Common, daemons, etcd_child
from modelmesh.cli.up.fleet import AGAIN_S, Signals
from modelmesh.cli.up.fleet_file import FleetFile, document
from modelmesh.cli.up.looks import Figures, Look, figures_of
from modelmesh.cli.up.plan import BASE_PORT, MOST_PODS, SPAN, BadPlan, Plan, Pod, plan

MIB = 1 << 20
GIB = 1 << 30


def test_ports_are_those_that_a_person_would_guess() -> None:
    assert plan(2, 18000) == Plan(
        18000,
        18001,
        (Pod("a", 18004, 18005, 18006, 18007), Pod("b", 18008, 18009, 18010, 18011)),
    )


@given(st.integers(1, MOST_PODS), st.integers(1, 65536 - SPAN))
def test_all_ports_lie_within_the_span_and_none_is_given_twice(pods: int, base: int) -> None:
    made = plan(pods, base)
    ports = [port for port, _ in made.ports(own_etcd=True)]
    assert len(set(ports)) == len(ports) == 2 + 4 * pods
    assert all(base <= port < base + SPAN for port in ports)
    assert len({pod.id for pod in made.pods}) == pods
    assert made.pods == plan(MOST_PODS, base).pods[:pods], "a pod's ports depend on its name alone"


def test_nobody_needs_ports_for_an_etcd_of_somebody_else() -> None:
    made = plan(3)
    uses = {use for _, use in made.ports(own_etcd=True)}
    assert uses - {use for _, use in made.ports(own_etcd=False)} == {"etcd", "etcd's peers"}


def test_the_default_base_is_nobody_elses() -> None:
    others = {8033, 8008, 2112, 8089, 2379, 2380}
    assert not others & set(range(BASE_PORT, BASE_PORT + SPAN))
    assert BASE_PORT + SPAN <= 32768


@pytest.mark.parametrize(
    ("pods", "base", "said"),
    [
        (0, BASE_PORT, "--pods must be from 1 to 24, not 0"),
        (25, BASE_PORT, "--pods must be from 1 to 24, not 25"),
        (3, 0, "--base-port must be from 1 to 65436, not 0"),
        (3, 65437, "--base-port must be from 1 to 65436, not 65437"),
    ],
)
def test_a_fleet_that_cannot_be(pods: int, base: int, said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        plan(pods, base)


def common(capacity_bytes: int = 0, **environment: str) -> Common:
    return Common(
        ("serve",), environment, Path("/d"), "http://e:1", capacity_bytes, memory_bytes=6 * GIB
    )


def test_a_daemon_is_told_all_that_it_is() -> None:
    b = daemons(plan(2, 1000), common(5 * MIB, MM_LOG_LEVEL="debug", MM_INSTANCE_ID="z"))[1]
    assert b.environment == {
        "MM_LOG_LEVEL": "debug",
        "MM_INSTANCE_ID": "b",
        "MM_SVC_GRPC_PORT": "1008",
        "MM_REST_PORT": "1009",
        "MM_METRICS": "prometheus:port=1010;scheme=http",
        "MM_PEER_PORT": "1011",
        "MM_PROBE_PORT": "NONE",
        "MM_DATA_DIR": "/d/b",
        "MM_CAPACITY_BYTES": str(5 * MIB),
        "KV_STORE": "etcd:http://e:1",
    }
    assert (b.name, b.argv, b.log) == ("b", ("serve",), Path("/d/b.log"))
    assert (b.port, b.ready_path) == (1010, "/ready")


@pytest.mark.parametrize(
    ("capacity", "environment", "expected"),
    [
        (0, {}, {"MEM_LIMIT_MB": "2048"}),  # 6 GiB among three
        (7, {}, {"MM_CAPACITY_BYTES": "7"}),
        (7, {"MM_CAPACITY_BYTES": "9"}, {"MM_CAPACITY_BYTES": "7"}),
        (0, {"MM_CAPACITY_BYTES": "9"}, {"MM_CAPACITY_BYTES": "9"}),
        (0, {"MEM_LIMIT_MB": "11"}, {"MEM_LIMIT_MB": "11"}),
    ],
)
def test_whose_word_on_memory_counts(
    capacity: int, environment: dict[str, str], expected: dict[str, str]
) -> None:
    child = daemons(plan(3), common(capacity, **environment))[0]
    names = ("MM_CAPACITY_BYTES", "MEM_LIMIT_MB")
    assert {n: child.environment[n] for n in names if n in child.environment} == expected


def test_etcd_is_a_child_like_the_others() -> None:
    child = etcd_child(plan(3, 1000), ["etcd", "--x"], {"A": "b"}, Path("/d"))
    assert (child.argv, child.environment) == (("etcd", "--x"), {"A": "b"})
    assert (child.port, child.ready_path, child.log) == (1000, "/health", Path("/d/etcd.log"))


def test_pauses_begin_with_none_and_grow_to_a_bound() -> None:
    pauses = [restarts.pause_s(n) for n in range(9)]
    assert pauses == [0.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert restarts.pause_s(10_000) == restarts.LONGEST_PAUSE_S


@pytest.mark.parametrize(
    ("status", "said"), [(0, "ended with status 0"), (-9, "was killed by signal 9")]
)
def test_how_one_ended(status: int, said: str) -> None:
    assert restarts.how(status) == said


def test_the_file_has_the_form_that_others_read(tmp_path: Path) -> None:
    said = document(plan(1, 1000), "http://127.0.0.1:1000", 1, {"a": 2})
    file = FleetFile(tmp_path)
    file.write(said)
    assert file.path.read_text() == (
        '{"etcd": {"url": "http://127.0.0.1:1000", "pid": 1}, "pods":'
        ' [{"id": "a", "pid": 2, "grpc": 1004, "rest": 1005, "metrics": 1006}]}\n'
    )


def test_the_file_is_replaced_only_by_what_differs(tmp_path: Path) -> None:
    file = FleetFile(tmp_path)
    inodes = []
    for pid in (2, 2, 3):
        file.write(document(plan(1), "u", None, {"a": pid}))
        inodes.append(file.path.stat().st_mtime_ns)
    assert inodes[0] == inodes[1] != inodes[2]
    file.remove()
    file.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("moments", "ending", "killing"),
    [
        ([], False, False),
        ([10.0], True, False),
        ([10.0, 10.0], True, False),  # the same press, delivered twice
        ([10.0, 10.0 + AGAIN_S], True, True),
        ([10.0, 10.1, 10.2, 10.0 + AGAIN_S], True, True),
    ],
)
def test_only_a_second_press_kills(moments: list[float], ending: bool, killing: bool) -> None:
    signals = Signals()
    for moment in moments:
        signals.interrupt(moment)
    assert (signals.ending.is_set(), signals.killing.is_set()) == (ending, killing)


def test_to_be_told_twice_to_end_kills_nobody() -> None:
    signals = Signals()
    signals.end()
    signals.end()
    signals.interrupt(10.0)  # somebody else's SIGTERM is no press
    assert not signals.killing.is_set()


PAGE = """# HELP modelmesh_instance_models_total Models loaded here
# TYPE modelmesh_instance_models_total gauge
modelmesh_instance_models_total 2.0
modelmesh_instance_used_bytes 1.5e+06
modelmesh_instance_capacity_bytes 4e+06
modelmesh_api_request_milliseconds_count{code="OK",method="a b"} 40.0
modelmesh_api_request_milliseconds_count{code="NOT_FOUND",method="c"} 2.0
modelmesh_loadmodel_milliseconds_count 5.0
modelmesh_unloadmodel_milliseconds_count 3.0
nonsense
"""


def test_a_metrics_page_is_read_as_far_as_it_concerns_us() -> None:
    assert figures_of(PAGE) == Figures(2, 1_500_000, 4_000_000, 42, 8)
    assert figures_of("") == Figures()


LOOKS = [
    Look("a", 12, True, 0, Figures(6, 1536, 4096, 42, 9), ("iris", "m\x1b[2J")),
    Look("b", 345, True, 1, Figures(0, 0, 4096)),
    Look("c", None, False, 2),
]


def test_the_table() -> None:
    assert rows.live(LOOKS, 200) == [
        "POD  PID  READY  MODELS  MEMORY              REQUESTS  RESTARTS  LOADED",
        "a     12  yes         6  1.5 KiB of 4.0 KiB        42         0  iris m\\x1b[2J +4",
        "b    345  yes         0  0 B of 4.0 KiB             0         1",
        "c         no                                                  2",
    ]
    wide = Look("d", 1, True, 0, Figures(1), ("\u6a21" * 99,))
    assert all(columns(line) <= 80 for line in rows.live([*LOOKS, wide], 80))


@pytest.mark.parametrize(
    ("look", "said"),
    list(
        zip(
            LOOKS,
            [
                "a: pid 12, ready, 6 models loaded",
                "b: pid 345, ready, 0 models loaded",
                "c: pid None, not ready",
            ],
            strict=True,
        )
    ),
)
def test_plain_lines(look: Look, said: str) -> None:
    assert rows.plain(look) == said


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", ""),
        ("one\ntwo\nthree\n", "two\nthree"),
        ('{"event": "stopped"}\nmodelmesh: there is no such thing\n', "there is no such thing"),
        ("modelmesh: that was before\n{}\n", "modelmesh: that was before\n{}"),
    ],
)
def test_of_a_start_that_fails_the_sentence_is_told_or_else_the_last_lines(
    log: str, said: str
) -> None:
    assert restarts.end_of(log, 2) == said
