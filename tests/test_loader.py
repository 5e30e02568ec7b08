"""Reading: YAML with places, projects with their files, digests and the schema."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SCALE

from runtime.document import MAX_BYTES, read
from runtime.errors import DesignError
from runtime.loader import digest_of, findings_of, load, load_project, read_project, schema
from runtime.repeats import expected_visits, repeats
from runtime.schema import DOCS

ROOT = Path(__file__).parent.parent
LANTERN = Path(__file__).parent / "projects" / "lantern"
TINY = "machine: x\ntitle: The test\nlanguage: en\ninitial: A\nstates:\n  A: {on: {B: B}}\n  B: {type: final}\n"


def project(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


class TestDocument:
    """YAML 1.2's core types, and where each part stands."""

    @pytest.mark.parametrize(
        ("written", "value"),
        [
            ("on", "on"),
            ("no", "no"),
            ("true", True),
            ("0x1F", 31),
            ("010", 10),
            ("1_000", "1_000"),
            ("12:30", "12:30"),
            ("1.5", 1.5),
            ("1e3", 1000.0),
            ("2001-01-01", "2001-01-01"),
            ("'true'", "true"),
            ("Null", None),
        ],
    )
    def test_plain_scalars_are_yaml_1_2(self, written: str, value: Any) -> None:
        document = read("x.yaml", f"a: {written}\n", may_be_null=lambda _: True)

        assert document.value == {"a": value}
        assert document.findings == ()

    def test_keys_are_texts_whatever_they_look_like(self) -> None:
        assert read("x.yaml", "on: {1: a, true: b}\n").value == {"on": {"1": "a", "true": "b"}}

    def test_a_byte_order_mark_and_windows_line_ends_are_read(self) -> None:
        document = read("x.yaml", "\ufeffa: 1\r\nb:\r\n  - c\r\n")

        assert document.value == {"a": 1, "b": ["c"]}
        assert document.places.key(("b", 0)) == (3, 5)

    def test_places_are_of_keys_of_values_and_inside_of_texts(self) -> None:
        document = read("x.yaml", 'a:\n  - {b: "x \\"y\\" z"}\n  - c: 给 x\n')
        places = document.places

        assert places.key(("a", 0, "b")) == (2, 6)
        assert places.value(("a", 0, "b")) == (2, 9)
        assert places.inside(("a", 0, "b"), 1) == (2, 10)
        assert places.inside(("a", 0, "b"), 7) == (2, 18)
        assert places.inside(("a", 1, "c"), 3) == (3, 10)
        assert places.key(("a", 1, "missing")) == (3, 5)

    def test_places_are_of_the_file_also_behind_a_value_that_was_quoted_to_be_read(self) -> None:
        """Two mends in one line, and what stands in and behind them."""
        document = read("x.yaml", "a: {b: f(1, 2), c: g(x, y), d: 4}\n")

        assert [finding.col for finding in document.findings] == [8, 20]
        assert document.value == {"a": {"b": "f(1, 2)", "c": "g(x, y)", "d": 4}}
        assert document.places.inside(("a", "c"), 3) == (1, 22)
        assert document.places.key(("a", "d")) == (1, 29)

    def test_a_lone_surrogate_is_a_fault_at_its_place(self) -> None:
        finding = read("x.yaml", "a: 1\nb: \ud800\n").findings[0]

        assert str(finding) == "x.yaml:2:4 E002 the character U+D800 can't stand in a text file. Delete it"

    @pytest.mark.parametrize(
        "text", ["[" * 100_000, "a: " + "[" * 100_000, "a: " + "- " * 100_000, "a: " + "{a: " * 100_000]
    )
    def test_deep_nesting_is_refused_before_anything_breaks(self, text: str) -> None:
        document = read("x.yaml", text)

        assert document.value is None
        assert [finding.code for finding in document.findings] in (["E002"], ["E007"], ["E001"])

    def test_two_thousand_cut_values_end_in_findings_not_in_hours(self) -> None:
        started = time.monotonic()

        document = read("x.yaml", "a:\n" + "  - {guard: !x, b: f(1, 2)}\n" * 1000)

        assert 1 < len(document.findings) <= 2000
        assert {finding.code for finding in document.findings} == {"E010", "E013"}
        assert time.monotonic() - started < 20


class TestProject:
    """A machine's files are its YAML, its prompts' folder and what these include."""

    def test_files_are_named_by_their_path_in_the_project(self) -> None:
        files = read_project(LANTERN)["lantern_house"]

        assert "machines/lantern_house.yaml" in files
        assert "prompts/lantern_house/init.zh.prompty" in files
        assert all("\\" not in name and not name.startswith("/") for name in files)

    def test_shared_includes_belong_to_each_machine_that_uses_them(self, tmp_path: Path) -> None:
        folder = project(
            tmp_path,
            {
                "machines/x.yaml": TINY,
                "machines/y.yaml": TINY.replace("machine: x", "machine: y"),
                "prompts/x/turn.prompty": '{% include "_shared/a.md" %}',
                "prompts/_shared/a.md": '{%- include "_shared/b.md" %}{% include "../secret.md" %}',
                "prompts/_shared/b.md": "b",
                "prompts/_shared/c.md": "c",
                "secret.md": "no",
            },
        )

        found = read_project(folder)

        assert sorted(found["x"]) == [
            "machines/x.yaml",
            "prompts/_shared/a.md",
            "prompts/_shared/b.md",
            "prompts/x/turn.prompty",
        ]
        assert list(found["y"]) == ["machines/y.yaml"]

    def test_files_that_cannot_be_read_are_all_told(self, tmp_path: Path) -> None:
        folder = project(
            tmp_path,
            {"machines/x.yaml": b"machine: x\ntitle: caf\xe9\n", "prompts/x/large.prompty": b"a" * (MAX_BYTES + 1)},
        )

        with pytest.raises(DesignError) as caught:
            read_project(folder)

        assert [str(finding) for finding in caught.value.findings] == [
            "machines/x.yaml:2:11 E002 the file is not UTF-8 here. Save it as UTF-8",
            "prompts/x/large.prompty:1:1 E002 the file has 1,048,577 bytes; 1,048,576 are allowed. Split the machine",
        ]

    def test_a_folder_without_machines_is_a_fault(self, tmp_path: Path) -> None:
        with pytest.raises(DesignError, match=r"E002 no machine in .*/machines"):
            read_project(tmp_path)

    def test_the_faults_of_all_machines_are_told_at_once(self, tmp_path: Path) -> None:
        bad = TINY.replace("B: B", "B: C")
        folder = project(tmp_path, {"machines/x.yaml": bad, "machines/y.yaml": bad.replace("machine: x", "machine: y")})

        with pytest.raises(DesignError) as caught:
            load_project(folder)

        assert [finding.file for finding in caught.value.findings] == ["machines/x.yaml", "machines/y.yaml"]

    def test_the_machines_that_ship_are_clean(self) -> None:
        for folder in (ROOT, LANTERN):
            for files in read_project(folder).values():
                assert [str(finding) for finding in findings_of(files)] == []


class TestLoad:
    """From files to a machine, the same from disk and from the store."""

    def test_the_digest_covers_every_file_and_not_their_order(self) -> None:
        files = read_project(LANTERN)["lantern_house"]
        backwards = dict(reversed(files.items()))
        name = "prompts/lantern_house/_style.zh.md"

        digest = load(files).digest

        assert digest == digest_of(backwards) == load(backwards).digest
        assert digest != digest_of({**files, name: files[name] + "\n"})
        assert len(digest) == 64

    def test_windows_line_ends_do_not_change_the_digest(self, tmp_path: Path) -> None:
        unix = project(tmp_path / "unix", {"machines/x.yaml": TINY})
        windows = project(tmp_path / "windows", {"machines/x.yaml": TINY.replace("\n", "\r\n")})

        assert load_project(unix)["x"].digest == load_project(windows)["x"].digest

    def test_a_language_variant_goes_before_the_plain_prompt(self) -> None:
        plain = "---\ninputs: [state]\noutputs: {scene: scene}\n---\nsystem:\nTell.\nuser:\n{{ state }}\n"
        machine = load(
            {
                "machines/x.yaml": TINY.replace("The test", "{en: The test, zh: 试}").replace(
                    "A: {", "A: {prompt: turn, "
                ),
                "prompts/x/turn.prompty": plain,
                "prompts/x/turn.zh.prompty": plain.replace("Tell.", "讲。"),
            }
        )

        told = {language: machine.prompt_for(machine.edges[0], language).file for language in ("en", "zh", "zh-TW")}

        assert told == {
            "en": "prompts/x/turn.prompty",
            "zh": "prompts/x/turn.zh.prompty",
            "zh-TW": "prompts/x/turn.zh.prompty",
        }

    def test_a_long_machine_loads_in_well_under_a_second(self) -> None:
        """1,500 lines: 250 states of two guarded edges each."""
        lines = [
            f"  S{n}:\n    label: Room {n}\n    on:\n      S{n + 1}:\n"
            f"        - {{name: a, guard: hp > {n}, target: S{n + 1}, assign: {{hp: hp - 1}}}}\n"
            f"        - {{name: b, target: S{n + 1}}}\n"
            for n in range(250)
        ]
        head = TINY.partition("states:")[0].replace("initial: A", "initial: S0")
        text = f"{head}context:\n  hp: {{type: int}}\nstates:\n{''.join(lines)}  S250: {{type: final}}\n"
        started = time.process_time()

        machine = load({"machines/x.yaml": text})

        assert len(machine.edges) == 501
        assert text.count("\n") > 1500
        assert time.process_time() - started < 2


class TestSchema:
    """What editors are given is what the loader checks."""

    def test_the_file_beside_the_machines_is_the_schema(self) -> None:
        written = json.loads((ROOT / "machines" / "machine.schema.json").read_text(encoding="utf-8"))

        assert written == schema()

    def test_every_key_has_its_sentence_and_no_sentence_is_left_over(self) -> None:
        parts = {"Definition": schema(), **schema()["$defs"]}

        assert {name: set(part["properties"]) for name, part in parts.items()} == {
            name: set(docs) for name, docs in DOCS.items()
        }

    def test_unknown_keys_and_nulls_are_refused_everywhere_but_in_slots(self) -> None:
        text = json.dumps(schema())

        assert text.count('"type": "null"') == 1
        assert all(part["additionalProperties"] is False for part in (schema(), *schema()["$defs"].values()))

    def test_a_slot_may_be_empty(self) -> None:
        assert findings_of({"machines/x.yaml": TINY + "slots: {tone: }\n"}) == []


class TestRepeats:
    """An honest estimate: texts over visits."""

    def test_a_state_that_is_visited_once_repeats_after_as_many_plays_as_it_has_texts(self) -> None:
        scenes = "scene:\n  - {at: A, say: [a, b]}\n  - {say: [c]}\n"
        files = {"machines/x.yaml": TINY, "prompts/x/offline.en.yaml": scenes + "epilogue:\n  - {say: [d]}\n"}

        assert repeats(load(files)) == ["A (en): 3 texts for 1 visit a play: 3 plays before it repeats itself"]

    def test_a_play_takes_each_edge_as_likely_as_the_next(self) -> None:
        machine = load({"machines/x.yaml": TINY.replace("B: B}", "B: B, A: A}")})

        visits = expected_visits(machine)

        assert visits["A"] == pytest.approx(2)
        assert visits["B"] == pytest.approx(1)


SCRAPS = [
    None,
    True,
    -3,
    2.5,
    "",
    "hp",
    "dice.x > 1",
    "'a",
    "DECISION",
    "{{ x }}",
    [],
    ["a"],
    {},
    {"zh": "一"},
    {"target": "COMBAT"},
]


def spoiled(value: Any, chance: random.Random) -> Any:
    """A copy of a machine's values with one part replaced, removed or renamed."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.15:
        return chance.choice(SCRAPS)
    if isinstance(value, list):
        index = chance.randrange(len(value))
        return [spoiled(each, chance) if at == index else each for at, each in enumerate(value)]
    key = chance.choice(list(value))
    rest = {each: part for each, part in value.items() if each != key}
    doing = chance.random()
    if doing < 0.1:
        return rest
    if doing < 0.2:
        return {**rest, f"{key}x": value[key]}
    return {**value, key: spoiled(value[key], chance)}


@pytest.mark.parametrize("seed", range(12 * SCALE))
def test_whatever_is_spoiled_is_told_or_loads(seed: int) -> None:
    """A machine without faults compiles; one with faults raises all of them, and nothing else escapes."""
    chance = random.Random(seed)  # noqa: S311  -- a seeded test
    files = read_project(LANTERN)["lantern_house"]
    name = "machines/lantern_house.yaml"
    value = yaml.safe_load(files[name].replace("\non:", '\n"on":').replace(" on:", ' "on":'))
    for _ in range(chance.randint(1, 4)):
        value = spoiled(value, chance)
    text = yaml.safe_dump(value, allow_unicode=True, sort_keys=False)

    findings = findings_of({**files, name: text})

    if any(finding.is_fault for finding in findings):
        with pytest.raises(DesignError):
            load({**files, name: text})
    else:
        assert load({**files, name: text}).warnings == tuple(findings)
