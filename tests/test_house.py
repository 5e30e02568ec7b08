"""The house stands as it is described: floors, doors, and no drift between what is written twice."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from served import ROOT

from runtime import errors, loader
from server import refusals

FLOORS = (
    ("words", r"errors|model|session|formats|progress"),
    (
        "languages",
        r"expression|direct|prompt|template|budget|filters|source|layout|outputs|document|flow_yaml|places|cuts|fullwidth|cutting|terms|quoting|tokens",
    ),
    (
        "rules",
        r"machine|dice|constraints|advance|fragments|schema|shape|shaped|draft|check|check_\w+|rating|facts|leaks|memory|prices|properties",
    ),
    ("doors", r"loader|narrators|narrators\.\w+|stores|stores\.\w+"),
    ("the flow", r"view|request|claims|ledger|turn"),
    (
        "beside the flow",
        r"explain|repeats|history|recompute|verify|migrate|export|exported|importing|plausible|origins|copying|retention",
    ),
    ("the bench", r"bench|bench\.\w+"),
)
"""Each module of runtime/ stands on one floor; it imports from its own and from those below."""
DOORS = {
    "transitions": {"runtime.machine"},
    "cel_expr_python": {"runtime.expression"},
    "yaml": {"runtime.document"},
    "jinja2": {"runtime.template"},
    "opencc": {"runtime.terms"},
    "httpx": {"runtime.narrators.provider", "server.owner", "server.play.remote"},
    "httpx_aiohttp": {"runtime.narrators.provider"},
    "aiohttp": {"runtime.narrators.provider"},
    "duckdb": {"runtime.stores.duckfile"},
    "psycopg": {"runtime.stores.pg_pool"},
    "structlog": {"server.logs"},
    "prometheus_client": {"server.meter"},
    "dotenv": {"server.settings"},
    "uvicorn": {"server.serving"},
    "prompt_toolkit": {"server.play.keys"},
}
"""Who may import a library: its errors and its habits stop there."""
OUTSIDE = {"litestar", "uvicorn", "structlog", "click", "rich_click", "prompt_toolkit", "prometheus_client", "server"}
"""What the engine knows nothing of."""
IMPURE = {"asyncio", "time", "random", "secrets", "os", "socket", "subprocess", "threading", "datetime", "shutil"}
"""What words, languages and rules don't reach for: no clock, no chance, no I/O."""
PURE = ("words", "languages", "rules")
CALLED_IMPURE = {"open", "print", "input"}
LONGEST_FILE = 600
"""Lines: a file of ours that is longer has more than one reason to exist."""


@cache
def modules() -> Mapping[str, Path]:
    """Every module of ours by its name; the project that `init` copies is no module."""
    found = {}
    for top in ("runtime", "server"):
        for file in (ROOT / top).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            if not name.startswith("server.project."):
                found[name.removesuffix(".__init__")] = file
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(name: str, *, types: bool = True) -> set[str]:
    """What a module imports, wherever in it; without what only its types need, where that is not wanted."""

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (each.name for each in child.names)
            elif isinstance(child, ast.ImportFrom):
                whole = (f"{child.module}.{each.name}" for each in child.names)
                yield from (each if each in modules() else str(child.module) for each in whole)
            elif types or not is_for_types(child):
                yield from walk(child)

    return set(walk(tree(name)))


def ours(name: str, *, types: bool = True) -> set[str]:
    return {each for each in imported(name, types=types) if each in modules()}


def floor_of(name: str) -> int:
    """On which floor a module of runtime/ stands, from 0."""
    own = name.removeprefix("runtime.")
    found = [number for number, (_, pattern) in enumerate(FLOORS) if re.fullmatch(pattern, own)]
    assert len(found) == 1, f"{name} stands on no floor: say in FLOORS which is its"
    return found[0]


def engine() -> list[str]:
    return sorted(name for name in modules() if name.startswith("runtime."))


# Floors and doors.


@pytest.mark.parametrize("name", engine())
def test_imports_go_down_only(name):
    above = {each for each in ours(name) - {"runtime"} if floor_of(each) > floor_of(name)}
    assert above == set()


@pytest.mark.parametrize("name", engine())
def test_the_engine_knows_nothing_of_what_is_outside(name):
    assert {each.partition(".")[0] for each in imported(name)} & OUTSIDE == set()


@pytest.mark.slow
def test_no_imports_go_in_a_circle():
    graph = {name: ours(name, types=False) - {name} for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"in a circle: {' → '.join(error.args[1])}")


@pytest.mark.slow
@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library):
    through = {name for name in modules() if any(each.partition(".")[0] == library for each in imported(name))}
    assert through == DOORS[library]


@pytest.mark.parametrize("name", [each for each in engine() if FLOORS[floor_of(each)][0] in PURE])
def test_words_languages_and_rules_are_pure(name):
    """No clock, no chance and no I/O is imported or called, and nothing waits."""
    nodes = list(ast.walk(tree(name)))
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert {each.partition(".")[0] for each in imported(name, types=False)} & IMPURE == set()
    assert called & CALLED_IMPURE == set()
    assert not [node for node in nodes if isinstance(node, ast.AsyncFunctionDef)]


# Habits.


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_says_why_it_exists(name):
    assert ast.get_docstring(tree(name))


@pytest.mark.parametrize("name", engine())
def test_the_engine_prints_nothing(name):
    assert not [node.lineno for node in ast.walk(tree(name)) if isinstance(node, ast.Name) and node.id == "print"]


@pytest.mark.parametrize("name", sorted(modules()))
def test_nothing_is_left_for_later_and_no_error_is_swallowed(name):
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", modules()[name].read_text(encoding="utf-8"))
    broad = {"Exception", "BaseException", "None"}
    handlers = [node for node in ast.walk(tree(name)) if isinstance(node, ast.ExceptHandler)]
    swallowing = [
        handler.lineno
        for handler in handlers
        if (ast.unparse(handler.type) if handler.type else "None") in broad
        and all(isinstance(part, ast.Pass | ast.Continue) for part in handler.body)
    ]
    assert swallowing == []


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_file_grows_around_everything(name):
    assert len(modules()[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


def test_functions_are_short():
    """The median has at most 7 lines, nine of ten at most 31."""
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for name in modules()
        for node in ast.walk(tree(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    )
    assert lengths[len(lengths) // 2] <= 7
    assert lengths[len(lengths) * 9 // 10] <= 31


def test_values_are_frozen():
    """Every Struct of the engine's words is frozen: change is a new value."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for module in ("runtime.model", "runtime.session"):
        kinds += vars(__import__(module, fromlist=["_"])).values()
    structs = [kind for kind in kinds if hasattr(kind, "__struct_config__") and kind.__module__.startswith("runtime")]
    assert len(structs) > 20
    assert [kind.__name__ for kind in structs if not kind.__struct_config__.frozen] == []


# What is written twice.


def test_the_machines_schema_is_the_one_that_is_generated():
    written = (ROOT / "machines" / "machine.schema.json").read_text(encoding="utf-8")
    assert json.loads(written) == loader.schema()
    assert written == json.dumps(loader.schema(), ensure_ascii=False, indent=2) + "\n"


def test_every_error_has_a_code_of_its_own():
    codes = [kind.code for kind in refusals.kinds()]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_the_tree_of_errors_is_drawn_as_it_is():
    drawn = set(re.findall(r"(?:(?<=─ )|(?<=   ))[A-Z][A-Za-z]+", str(errors.__doc__))) | {"EdgewiseError"}
    known = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.EdgewiseError) and kind is not errors.Refusal
    }
    assert drawn == known


def test_no_file_names_a_machine_of_ours_or_an_index():
    """No path of somebody's disk and no package index stands in a file that is kept."""
    told = re.compile(r"/work/|/root/|/home/\w+|/Users/\w+|index-url|extra-index", re.IGNORECASE)
    kept = [ROOT / name for name in ("pyproject.toml", "README.md", "CHANGELOG.md", ".gitignore")]
    for folder in ("runtime", "server", "machines", "prompts", "benchmarks", "deploy", ".ci"):
        kept += [file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    found = [str(file.relative_to(ROOT)) for file in kept if file.exists() and told.search(file.read_text("utf-8"))]
    assert found == []
