"""What an operator changes while the fleet runs; nonsense changes nothing and is told once."""

import asyncio

import pytest
from structlog.testing import capture_logs

from modelmesh.registry.dynamic import DynamicConfig
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.store import CONFIG, Delete, Put


async def config(**values: str | bytes) -> tuple[DynamicConfig, MemoryStore]:
    store = MemoryStore()
    for name, value in values.items():
        raw = value if isinstance(value, bytes) else value.encode()
        await store.commit([], [Put(CONFIG + name, raw)])
    return DynamicConfig(store), store


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, 7),
        ("", 7),
        ("2000", 2000),
        (" 50\n", 50),
        ("0", 0),
        ("-5", 7),
        ("1.5", 7),
        ("many", 7),
        ("²", 7),
        (b"\xff\xfe", 7),
    ],
)
async def test_the_threshold(text: str | bytes | None, expected: int) -> None:
    values = {} if text is None else {"scaleup_rpm_threshold": text}
    dynamic, _ = await config(**values)
    assert dynamic.scaleup_rpm(7) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", "info"), ("DEBUG", "debug"), ("warn", "warning"), ("OFF", "error"), ("loud", "info")],
)
async def test_the_level_of_logs(text: str, expected: str) -> None:
    dynamic, _ = await config(logger_level=text)
    assert dynamic.log_level("info") == expected


@pytest.mark.parametrize("otherwise", [True, False])
@pytest.mark.parametrize(("text", "expected"), [("true", True), ("False", False), ("1", None)])
async def test_logging_each_call(text: str, expected: bool | None, otherwise: bool) -> None:
    dynamic, _ = await config(log_each_invocation=text)
    wanted = otherwise if expected is None else expected
    assert dynamic.log_each_invocation(otherwise) is wanted


async def test_nonsense_is_told_once_as_long_as_it_stands() -> None:
    dynamic, store = await config(scaleup_rpm_threshold="many")
    with capture_logs() as told:
        for _ in range(3):
            dynamic.scaleup_rpm(7)
        await store.commit([], [Put(CONFIG + "scaleup_rpm_threshold", b"more")])
        for _ in range(3):
            dynamic.scaleup_rpm(7)
    assert [line["value"] for line in told] == ["many", "more"]


async def test_every_change_is_told_until_somebody_stops_listening() -> None:
    dynamic, store = await config()
    heard: list[int] = []
    stop = dynamic.subscribe(lambda: heard.append(dynamic.scaleup_rpm(7)))
    await store.commit([], [Put(CONFIG + "scaleup_rpm_threshold", b"60")])
    await store.commit([], [Delete(CONFIG + "scaleup_rpm_threshold")])
    assert heard == [60, 7]
    stop()
    await store.commit([], [Put(CONFIG + "scaleup_rpm_threshold", b"61")])
    await asyncio.sleep(0)
    assert heard == [60, 7]
