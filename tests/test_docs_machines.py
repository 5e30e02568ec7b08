"""machines/README.md says what is so: every block, name, key and code of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from pages import ROOT, Block, Page, ticked

from runtime import loader
from runtime.check import CODES
from runtime.document import read
from runtime.expression import Names, activation, evaluate
from runtime.machine import VARIABLE_TYPES, edge_types, output_types, property_names
from runtime.prompt import TURN_INPUTS
from runtime.schema import schema

PAGE = Page(ROOT / "machines" / "README.md")
BLOCKS = PAGE.blocks("yaml", "jinja")


def bundles() -> dict[str, dict[str, str]]:
    """The page's machines, each with the files that the page gives it."""
    found: dict[str, dict[str, str]] = {}
    for block in BLOCKS:
        if block.file.startswith("machines/"):
            name = block.file.removeprefix("machines/").removesuffix(".yaml")
            found[name] = {block.file: block.text}
        elif block.file:
            found[block.file.split("/")[1]][block.file] = block.text
    return found


def machine_above(block: Block) -> str:
    """The machine that a block is added to: the last whole one above it."""
    above = [each for each in BLOCKS if each.line < block.line and each.file.startswith("machines/")]
    return above[-1].file.removeprefix("machines/").removesuffix(".yaml")


def merged(below: Any, above: Any) -> Any:
    """The page's rule: maps are merged in, lists and values replace."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}


def with_block(block: Block) -> dict[str, str]:
    """The files of the machine above a block, with the block added."""
    name = machine_above(block)
    files = bundles()[name]
    path = f"machines/{name}.yaml"
    document = read(path, block.text, may_be_null=lambda where: where[:1] == ("slots",))
    assert not document.findings, document.findings
    whole = merged(read(path, files[path]).value, document.value)
    return {**files, path: msgspec.json.encode(whole).decode()}


def named(block: Block) -> str:
    return f"line {block.line}: {block.section}"


ADDED = [block for block in BLOCKS if not block.file and not block.code]
BROKEN = [block for block in BLOCKS if block.code]


@pytest.mark.parametrize("name", bundles())
def test_a_machine_of_the_page_is_clean(name: str) -> None:
    assert [str(each) for each in loader.findings_of(bundles()[name])] == []


@pytest.mark.parametrize("block", ADDED, ids=named)
def test_a_block_of_the_page_fits_into_the_machine_above_it(block: Block) -> None:
    assert [str(each) for each in loader.findings_of(with_block(block))] == []


@pytest.mark.parametrize("block", BROKEN, ids=named)
def test_a_mistake_of_the_page_is_told_as_the_page_says(block: Block) -> None:
    told = [f"{each.code} {each.message}" for each in loader.findings_of(with_block(block))]

    assert told == PAGE.block_after(block).text.splitlines()
    assert told[0].startswith(block.code)


async def walk(start: Any, files: Mapping[str, str], seed: int) -> None:
    """Play a machine to its end, or for thirty turns, by options where there are any."""
    machine = loader.load(files)
    client = await start(machine)
    answer = await client.send(machine.definition.first.event, run_seed=f"walk-{seed}")
    for turn in range(30):
        options, routing = answer["payload"]["options"], answer["payload"]["routing"]
        if routing["next_event_type"] is None:
            break
        answer = await client.send(option=options[(seed + turn) % len(options)]["id"])
    assert answer["session"]["ended"] or answer["session"]["turn"] > 1


@pytest.mark.parametrize("name", bundles())
async def test_a_machine_of_the_page_plays(start: Any, name: str) -> None:
    for seed in range(5):
        await walk(start, bundles()[name], seed)


@pytest.mark.parametrize("block", ADDED, ids=named)
async def test_a_block_of_the_page_plays(start: Any, block: Block) -> None:
    for seed in range(5):
        await walk(start, with_block(block), seed)


# --- the tables ---


def test_the_codes_are_those_of_the_check() -> None:
    assert dict(PAGE.table("Every code")) == dict(CODES)


PARTS = {
    "a machine": "Definition",
    "`initial`": "Initial",
    "`limits`": "Limits",
    "`context`: a variable": "Variable",
    "`events`: an event": "Event",
    "`history`": "History",
    "`migrations`: a migration": "Migration",
    "`properties`: a property": "Property",
    "`states`: a state": "State",
    "`options`: an option": "Option",
    "`options`: free": "FreeOptions",
    "an edge": "EdgePart",
    "`on`: with dice": "Entry",
    "`dice`: a die": "LongDie",
    "`learn`: a variable": "Learn",
    "`ending`": "Ending",
}
"""How the page calls the parts of the schema."""


def test_the_keys_are_those_of_the_schema() -> None:
    written = {PARTS[part]: ticked(keys) for part, keys in PAGE.table("Every key")}
    parts = {"Definition": schema(), **schema()["$defs"]}

    assert written == {name: list(part["properties"]) for name, part in parts.items()}


def test_every_key_stands_in_a_block_of_the_page() -> None:
    """What isn't shown isn't taught."""
    shown: set[str] = set()
    for block in BLOCKS:
        shown |= keys_in(read("x.yaml", block.text).value) if block.language == "yaml" else set()
    parts = [schema(), *schema()["$defs"].values()]
    keys = {key for part in parts for key in part["properties"]}

    assert keys - shown == set()


def keys_in(value: Any) -> set[str]:
    """Every key of a value, at any depth."""
    if isinstance(value, Mapping):
        return set(value).union(*map(keys_in, value.values()))
    return set().union(*map(keys_in, value)) if isinstance(value, list) else set()


def test_the_types_of_variables_are_all_there_are() -> None:
    written = [ticked(row[0])[0] for row in PAGE.table("Facts: `context`")]

    assert sorted(written) == sorted(set(VARIABLE_TYPES) - {"text"})


def scope() -> dict[str, str]:
    """Every name that an expression of the page's machines may read somewhere, with its type."""
    types: dict[str, str] = {}
    for files in (*bundles().values(), *map(with_block, ADDED)):
        machine = loader.load(files)
        prompts = [prompt for variants in machine.prompts.values() for prompt in variants.values()]
        types |= output_types(prompts, machine.definition) | property_names(machine.definition)
        for edge in machine.edges:
            types |= edge_types(machine.definition, edge, machine.edges)
    return types


def test_the_names_are_those_that_expressions_read() -> None:
    types = scope()
    written = {ticked(name)[0]: kind for name, kind, *_ in PAGE.table("Expressions")}

    assert set(written) <= set(types)
    assert {name: types[name] for name, kind in written.items() if kind in {"int", "str"}} == {
        name: kind for name, kind in written.items() if kind in {"int", "str"}
    }
    families = {name.partition(".")[0] for name in types if "." in name} | {"step", "turns_left"}
    assert families - {name.partition(".")[0] for name in written} == {"given"}


VALUES = {"hp": 5, "bag": ["lamp", "key"], "key": "key", "payload.text": "Hi", "given.payload.text": True}


def test_the_functions_give_what_the_page_says() -> None:
    names = Names({"hp": "int", "bag": "set", "key": "str", "payload.text": "str", "given.payload.text": "bool"})
    shown = {}
    for _, _, examples in PAGE.table("Expressions", 1):
        for example in ticked(examples):
            shown[example] = evaluate(names.compile(example), activation(VALUES))

    assert shown == {
        "add(bag, key)": ["lamp", "key"],
        "remove(bag, key)": ["lamp"],
        "key in bag": True,
        "size(bag) > 1": True,
        "max(hp, 1)": 5,
        "clamp(hp, 1, 3)": 3,
        'norm("Open, please!") == "openplease"': True,
        "given(payload.text)": True,
        '"a key".contains("key")': True,
    }


TRAP = """\
machine: trap
title: A trap
language: en
initial: {event: INIT, target: HALL}
context: {hp: {type: int}, bag: {type: set, of: [key]}}
states:
  HALL:
    options:
      - key: try
        text: Try it
        target: OUT
        ENTRY
      - {key: wait, text: Wait, target: HALL}
  OUT: {type: final}
"""


@pytest.mark.parametrize("row", PAGE.table("YAML traps"), ids=lambda row: f"{row[3]} {row[0]}")
def test_a_trap_is_told_and_its_mend_is_right(row: list[str]) -> None:
    (wrong,), (right,), code = ticked(row[0]), ticked(row[2]), row[3]

    told = loader.findings_of({"machines/trap.yaml": TRAP.replace("ENTRY", wrong)})
    mended = loader.findings_of({"machines/trap.yaml": TRAP.replace("ENTRY", right)})

    assert [each.code for each in told] == [code]
    assert "Quote" in told[0].message
    assert mended == []


def test_the_inputs_are_those_of_every_turn() -> None:
    written = [name for row in PAGE.table("Prompts") for name in ticked(row[0])]

    assert sorted(written) == sorted(TURN_INPUTS)


def test_every_link_of_the_page_leads_somewhere() -> None:
    for path, anchor in PAGE.links():
        assert (PAGE.path.parent / path).exists(), path
        assert path or anchor in PAGE.anchors(), anchor
