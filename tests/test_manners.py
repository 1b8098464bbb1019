"""The manners of docs/CONTRIBUTING.md that a machine can see, over every file of the repository.

What is allowed in spite of a rule stands here with its reason, and no longer than it is needed.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_LINES_A_FILE = 500
MOST_LINES_A_FUNCTION = 70

TASKS_OF_THEIR_OWN = {
    "modelmesh/observe/tasks.py": "spawn itself",
    "modelmesh/app.py": "start and signal, both awaited where they are made",
    "modelmesh/cli/up/fleet.py": "work and stop, both awaited where they are made",
    "modelmesh/simulation/clock.py": "the loop itself; it only notes whose task it is",
    "modelmesh/wire/grpcio.py": "wire lies below observe; the pump logs its failure itself",
    "modelmesh/wire/grpcio_caller.py": "wire lies below observe; each task ends its own call",
    "modelmesh/wire/http1_caller.py": "wire lies below observe; the end is seen in _opened",
}
SLEEPS_IN_TESTS = {
    "tests/adapters/hostile.py": "a model that hangs",
    "tests/api/fakes.py": "looks at a condition until its bound",
    "tests/app/client.py": "looks at a condition until its bound",
    "tests/cli/fleets.py": "looks at a condition until its bound",
    "tests/fleet/proxy.py": "bytes that are late on purpose",
    "tests/fleet/traffic.py": "the pace of a stream of requests, and a client's pause when refused",
    "tests/peers/worlds.py": "looks at a condition until its bound; virtual time passes",
    "tests/registry/etcd_door.py": "etcd's leases end by its own clock",
    "tests/registry/waiting.py": "looks at a condition until its bound",
    "tests/runtime/fake.py": "a model that takes its time, on a virtual clock",
    "tests/runtime/misdeeds.py": "models that hang",
    "tests/runtime/test_hostile.py": "the pace of a stream of requests",
    "tests/runtime/test_seams.py": "a verdict that must not come has no sign of its own",
    "tests/runtime/waiting.py": "looks at a condition until its bound",
    "tests/wire/harnesses.py": "looks at a condition until its bound",
}
READERS_OF_THE_ENVIRONMENT = {
    "modelmesh/cli/serve.py": "hands it to options.read, which makes Settings of it",
    "modelmesh/cli/arguments.py": "the addresses that client commands default to",
    "modelmesh/cli/up/command.py": "what its daemons inherit",
    "modelmesh/cli/etcd_process.py": "what an etcd inherits, less what it would take for flags",
    "modelmesh/cli/main.py": "quiets gRPC's core before it is imported",
    "modelmesh/runtime/zygote.py": "the allow-list of what hosts inherit",
    "runtime_adapters/host.py": "what the zygote was started with",
}
PATCHES = re.compile(r"(monkeypatch\.(setattr|setitem|delattr)|mock\.|\bpatch\()")


@cache
def trees() -> dict[str, ast.Module]:
    """Every Python file that is ours, tracked or about to be, but the generated ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    ours = (name for name in listed if "/pb/" not in name and (ROOT / name).exists())
    return {name: ast.parse((ROOT / name).read_text(), name) for name in ours}


def of_product() -> dict[str, ast.Module]:
    return {
        name: tree
        for name, tree in trees().items()
        if name.startswith(("modelmesh/", "runtime_adapters/"))
    }


def of_tests() -> dict[str, ast.Module]:
    return {name: tree for name, tree in trees().items() if name.startswith("tests/")}


def dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written; what is no name counts as nothing."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Each call with what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def test_no_file_is_too_long() -> None:
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in trees()}
    assert not {name: n for name, n in lengths.items() if n > MOST_LINES_A_FILE}


def test_no_function_is_too_long() -> None:
    too_long = [
        (name, node.name)
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MOST_LINES_A_FUNCTION
    ]
    assert not too_long


def test_every_module_says_what_it_is_for() -> None:
    assert not [name for name, tree in trees().items() if not ast.get_docstring(tree)]


def test_every_task_has_a_guard() -> None:
    naked = {
        name
        for name, tree in of_product().items()
        for what, _ in calls(tree)
        if what.endswith(("create_task", "ensure_future", "TaskGroup"))
    }
    assert naked == TASKS_OF_THEIR_OWN.keys()


def test_every_task_has_a_name() -> None:
    """An ad-hoc task too; `spawn` takes the name as an argument."""
    for name, tree in of_product().items():
        for what, call in calls(tree):
            if what.endswith("create_task"):
                assert any(keyword.arg == "name" for keyword in call.keywords), (name, call.lineno)


def in_virtual_time(tree: ast.Module) -> bool:
    """Whether it runs on a loop whose time jumps: nothing waits there, a sleep says when."""
    loops = {"modelmesh.simulation.clock", "tests.simulation.test_world"}
    return any(isinstance(n, ast.ImportFrom) and n.module in loops for n in ast.walk(tree))


def test_tests_wait_for_conditions_not_for_time() -> None:
    sleepers = {
        name
        for name, tree in of_tests().items()
        for what, call in calls(tree)
        if what in ("sleep", "time.sleep", "asyncio.sleep")
        and [ast.unparse(argument) for argument in call.args] != ["0"]
        and not in_virtual_time(tree)
    }
    assert sleepers == SLEEPS_IN_TESTS.keys()


def test_nothing_of_ours_is_patched() -> None:
    """Neither by a library nor by hand: nothing imported is assigned to."""
    for name, tree in of_tests().items():
        imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom | ast.Import)]
        imported = {alias.asname or alias.name for node in imports for alias in node.names}
        assert not [node.lineno for node in imports if "mock" in ast.unparse(node)], name
        assert not [call.lineno for what, call in calls(tree) if PATCHES.search(f"{what}(")], name
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                held_by = {dotted(t.value) for t in targets if isinstance(t, ast.Attribute)}
                assert not held_by & imported, (name, node.lineno)


def test_a_skipped_test_says_why() -> None:
    for name, tree in of_tests().items():
        for what, call in calls(tree):
            if what.endswith(("pytest.skip", "mark.skip")):
                assert call.args or call.keywords, (name, call.lineno)
            if what.endswith(("skipif", "xfail")):
                assert any(word.arg == "reason" for word in call.keywords), (name, call.lineno)


def test_the_environment_is_read_in_few_places() -> None:
    readers = {
        name
        for name, tree in of_product().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers == READERS_OF_THE_ENVIRONMENT.keys()


def test_nothing_is_put_off() -> None:
    """No marks of what would be done later; what is missing stands in docs/ROADMAP.md."""
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    assert not [name for name in trees() if marks.search((ROOT / name).read_text())]


def _pages() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return listed.stdout.split()


def test_links_between_pages_lead_somewhere() -> None:
    for page in _pages():
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
            assert (ROOT / page).parent.joinpath(target).exists(), (page, target)


def test_every_promise_names_tests_that_exist() -> None:
    """docs/FEATURES.md, whose second column names tests as `room/file.py::test`."""
    known: set[str] = set()
    for name, tree in of_tests().items():
        short = name.removeprefix("tests/")
        known.add(short)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                known.add(f"{short}::{node.name}")
    named = re.findall(r"`([a-z_0-9/]+\.py(?:::\w+)?)`", (ROOT / "docs/FEATURES.md").read_text())
    assert len(named) > 100
    assert not [test for test in named if test not in known and not (ROOT / test).exists()]
