"""Replay files: what stands in them, every fault at its place, and that what is written reads back as it was."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from den import ANEW, at, den, read, replays
from hypothesis import given
from hypothesis import strategies as st
from pages import ROOT, Page, ticked

from runtime.bench.replay import Chosen, Expect, Given, Replay, ReplayStep, Text, bare
from runtime.bench.replay_file import (
    EachPart,
    ExpectPart,
    FilePart,
    OptionPart,
    StepPart,
    findings_against,
    read_replays,
    replay_files,
)
from runtime.bench.written import written

LANTERN = ROOT / "tests" / "projects" / "lantern"
TESTS = Page(ROOT / "tests" / "README.md")


def faults(text: str) -> list[str]:
    found, findings = read(text)
    assert found == ()
    return [str(each).partition(" ")[0].removeprefix("x.replay.yaml:") + " " + each.message for each in findings]


def test_a_file_that_is_too_long_is_mended_as_a_replay_not_as_a_machine():
    (told,) = faults(ANEW + "# " + "灯" * 350_000)
    assert told.endswith("1,048,576 are allowed. Make several replays of it")


# What stands in a file.


def test_a_file_is_one_test_or_one_for_each_combination():
    one = replays(ANEW + "steps: [{}]")
    many = replays(ANEW + "each: {language: [zh, en], context: [{hp: 1}, {hp: 2, loud: true}]}\nsteps: [{}]")

    assert [each.id for each in one] == ["x.replay.yaml::t"]
    assert [each.id for each in many] == [
        "x.replay.yaml::t[zh-hp=1]",
        "x.replay.yaml::t[zh-hp=2,loud=true]",
        "x.replay.yaml::t[en-hp=1]",
        "x.replay.yaml::t[en-hp=2,loud=true]",
    ]
    assert [(each.given.language, each.given.context["hp"]) for each in many] == [
        ("zh", 1), ("zh", 2), ("en", 1), ("en", 2),
    ]  # fmt: skip


def test_combinations_that_read_the_same_are_told_apart():
    many = replays(ANEW + "each: {language: [zh, zh-b], seed: [b-a, a]}\nsteps: [{}]")

    assert [each.id.partition("::")[2] for each in many] == ["t[zh-b-a]", "t[zh-a]", "t[zh-b-b-a]", "t[zh-b-a#2]"]


def test_every_key_of_a_step_is_read():
    (replay,) = replays(
        at()
        + """\
xfail: not yet
steps:
  - choose: {text: {zh: 石, en: stone}}
    send: MOUTH
    with: {text: 灯, times: null}
    constraints: {language: en, forbidden_terms: [血], content_rating: null}
    dice: {attack: 1, kinds: [bold]}
    narrate: {mood: null}
    after: 1.5s
    key: k1
    times: 2
    prompt: |
      user:
      hi
    expect:
      {edge: MOUTH.hit, state: MOUTH, context: {bag: [lamp]}, next: GO, allowed: [GO], should_end: false, ended: false,
       ending: END_OUT, options: [strike], error: guard_refused, meta: {model: null}, scene: 亮,
       result.text: {zh: 甲, en: b}, ending.title: {contains: {zh: 天}, pattern: ^.+$}}
"""
    )

    (step,) = replay.steps
    assert (replay.name, replay.xfail, replay.file, replay.given.state) == ("t", "not yet", "x.replay.yaml", "MOUTH")
    assert bare(replay).steps[0] == ReplayStep(
        choose=Chosen(text={"zh": "石", "en": "stone"}),
        send="MOUTH",
        with_={"text": "灯", "times": None},
        constraints={"language": "en", "forbidden_terms": ["血"], "content_rating": None},
        dice={"attack": 1, "kinds": ["bold"]},
        narrate={"mood": None},
        after_ms=1500,
        key="k1",
        times=2,
        prompt="user:\nhi\n",
        expect=Expect(
            edge="MOUTH.hit", state="MOUTH", context={"bag": ["lamp"]}, next="GO", allowed=("GO",), should_end=False,
            ended=False, ending="END_OUT", options=("strike",), error="guard_refused", meta={"model": None},
            texts={
                "scene": Text(contains="亮"),
                "result.text": Text(contains={"zh": "甲", "en": "b"}),
                "ending.title": Text(contains={"zh": "天"}, pattern="^.+$"),
            },
        ),
    )  # fmt: skip
    assert (step.line, step.places["dice.attack"]) == (5, ("x.replay.yaml", 9, 12))


@pytest.mark.parametrize(("written_so", "ms"), [("20s", 20_000), ("1.5s", 1500), ("2m", 120_000), ("250ms", 250)])
def test_the_players_clock_is_told_in_the_unit_that_suits(written_so: str, ms: int):
    assert replays(ANEW + f"steps: [{{after: {written_so}}}]")[0].steps[0].after_ms == ms


# Faults.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replay: t\nsteps: [{}]", ["1:1 'given' is missing here. Add given: {machine: NAME}"]),
        (ANEW, ["1:1 'steps' is missing here. Add it"]),
        (ANEW + "stepps: [{}]", ["3:1 no key 'stepps' here. Did you mean 'steps'?"]),
        (
            "replay: 3\ngiven: {machin: den, player_count: 0, difficulty: hard}\neach: {langage: [zh]}\nsteps: [{}]",
            [
                "1:9 'replay' is a text",
                "2:9 no key 'machin' here. Did you mean 'machine'?",
                "2:36 'player_count' is too small: at least 1",
                "2:51 'hard' is not one of EASY, HARD, NORMAL. Did you mean 'HARD'?",
                "3:8 no key 'langage' here. Did you mean 'language'?",
            ],
        ),
        (
            ANEW + "steps:\n  - {option: x, after: soon, expect: {context: [hp], edge: 3}}\n  - {send: X, times: 0}",
            [
                "4:6 no key 'option' here. Did you mean 'choose'?",
                "4:24 'after' is no time: write 20s, 1.5s, 2m or 250ms",
                "4:48 'context' is a map (key: value)",
                "4:60 'edge' is a text",
                "5:22 'times' is too small: at least 1",
            ],
        ),
        (
            ("replay: t\ngiven: {machine: den, player_count: 2.0}\nsteps:\n  - {choose: 1.0, dice: {d: 2.0}}\n"
            "  - {send: X, times: 2.0, key: k}"),
            [
                "2:37 'player_count' is a whole number",
                "4:14 'choose' is a text or a whole number or a map (key: value)",
                "4:29 'd' is true or false or a whole number or a text or a list",
                "5:22 'times' is a whole number",
            ],
        ),
        (
            ("replay: t\ngiven: {machine: den, seed: a b, player_count: 9223372036854775808}\nsteps:\n"
            f"  - {{key: 灯}}\n  - {{send: X, key: {'k' * 256}}}"),
            [
                "2:29 'seed' is no seed: write 1 to 128 of A-Z, a-z, 0-9 and _ . : -",
                "2:48 'player_count' is too large: at most 9223372036854775807",
                "4:11 'key' is no key: write 1 to 255 printable characters of ASCII, such as k1",
                "5:20 'key' is no key: write 1 to 255 printable characters of ASCII, such as k1",
            ],
        ),
        (
            ANEW + f"steps:\n  - {{after: {'9' * 400}h}}\n  - {{send: X, after: 1000.001h}}\n"
            "  - {send: X, after: 1000h, with: {selected_option_id: 2}}",
            [
                "4:13 'after' is too long: at most 1000h",
                "5:22 'after' is too long: at most 1000h",
                "6:56 an option is chosen beside the payload: write choose: 2",
            ],
        ),
        (
            ANEW + 'steps: [{expect: {scene: "", a: {contains: ""}, b: {pattern: ""}, c: {zh: "", en: x}}}]',
            [
                "3:26 nothing is asked of 'scene'. Write {contains: …} or {pattern: …}",
                "3:44 an empty text asks nothing. Write {contains: …} or {pattern: …}",
                "3:62 an empty text asks nothing. Write {contains: …} or {pattern: …}",
                "3:75 an empty text asks nothing. Write {contains: …} or {pattern: …}",
            ],
        ),
        (
            ANEW + "steps: [{expect: {scene: {pattern: (?=a)}}}]",
            ["3:36 '(?=a)' is no regular expression of RE2: invalid perl operator: (?="],
        ),
        (
            ANEW + f"each:\n  seed: {[f's{number}' for number in range(40)]}\n"
            f"  player_count: {[*range(1, 31)]}\nsteps: [{{}}]",
            ["4:3 1,200 combinations; 1,000 are allowed. Leave some out, or write several files"],
        ),
        (ANEW + "steps: [{narrate: null}]", ["3:10 'narrate' has no value. Give it one, or delete the line"]),
        (ANEW + "steps: [{}, {}]", ["3:13 a step chooses or sends. Add choose: OPTION, or send: EVENT"]),
        (ANEW + "each: {seed: [a, b, a]}\nsteps: [{}]", ["3:21 'a' stands here a second time. Delete one"]),
        (
            ANEW + "steps: [{send: X, times: 2}]",
            ["3:26 without a key each request is a turn of its own. Add key: k1"],
        ),
        (
            ANEW + "steps: [{choose: {kind: a, text: b}}]",
            ["3:18 an option has one name here: {kind: …} or {text: …}"],
        ),
        (
            ANEW + 'steps: [{expect: {scene: {containz: x}, end: {pattern: "("}, a.b: {zh: {en: x}}, c: {}}}]',
            [
                "3:27 no key 'containz' here. Did you mean 'contains'?",
                "3:56 '(' is no regular expression of RE2: missing ): (",
                "3:72 'zh' is a text",
                "3:85 nothing is asked of 'c'. Write {contains: …} or {pattern: …}",
            ],
        ),
        (ANEW + "steps: [{expect: {scene: 3}}]", ["3:26 'scene' is a text or a map (key: value)"]),
        (
            ANEW + "steps: [{constraints: {max_chars_scene: 3, content_rating: X}}]",
            ["3:41 'max_chars_scene' is too small: at least 20", "3:60 'X' is not one of G, PG, PG13, R"],
        ),
        (
            ANEW + "steps: [{send: &a X}]",
            ["3:16 anchors and aliases (& and *) are not part of the language. Write the value out"],
        ),
    ],
)  # fmt: skip
def test_every_fault_is_told_at_its_place(text: str, expected: list[str]):
    assert faults(text) == expected


def test_what_nobody_foresaw_is_a_fault_of_its_file_alone():
    def falls(_: str) -> str:
        raise RuntimeError("out of the blue")

    found, (fault,) = read_replays("灯.replay.yaml", "replay: t\nreproduce: x.replay.yaml\n", falls)

    assert (found, fault.file) == ((), "灯.replay.yaml")
    assert fault.message.endswith("RuntimeError: out of the blue")


NO_TEXT = "in any answer of the machine, and no other key of that name"


def test_a_value_that_no_quotes_mend_is_told_once():
    """Quoted again and again, its quotes would double each time, until no memory held them."""
    assert faults("replay: t\ngiven: {mac[][]hine, state: MOUTH, context: {hp: 2}}\nsteps: [{}]") == [
        "2:12 YAML ends a value inside {} at a comma or bracket. Quote the whole: '[][]hine'"
    ]


def test_what_the_machine_has_not_is_told_before_anything_is_played():
    (replay,) = replays(
        at("MOUT", language="fr", context="{hp: 12, mood: clam, bag: key, hpp: 1, loud: 1}")
        + """\
steps:
  - {choose: strik, dice: {attak: 2}, expect: {edge: MOUTH.hitt, next: GOO, options: [strike, odt], stat: x}}
  - {choose: {kind: boldd}, expect: {allowed: [SAYY], ending: MOUTH, result.txt: y, meta: {narator: x}}}
  - {send: sayy, expect: {context: {warmth: 1}, scene: a, status.hp.text: b, ending.title: c, ai_state.tone: d}}
  - {send: NOTHING, choose: 9, dice: {none: 1}, expect: {error: event_not_alowed, why: x}}
"""
    )

    found = [f"{each.line}:{each.col} {each.message}" for each in findings_against(den(), replay)]

    assert found == [
        "2:23 no state 'MOUT' in the machine. Did you mean 'MOUTH'?",
        "2:36 the machine has no language 'fr'. It has zh, en",
        "2:60 'hp' is at most 9",
        "2:68 'mood' has no member 'clam'. Did you mean 'calm'?",
        "2:80 'bag' is a list of members",
        "2:90 no variable 'hpp' in the machine. Did you mean 'hp'?",
        "2:98 'loud' is of type bool",
        "4:6 no option 'strik' in the machine. Did you mean 'strike'?",
        "4:28 no die 'attak' in the machine. Did you mean 'attack'?",
        "4:48 no edge 'MOUTH.hitt' in the machine. Did you mean 'MOUTH.hit'?",
        "4:66 no event 'GOO' in the machine. Did you mean 'GO'?",
        "4:77 no option 'odt' in the machine. Did you mean 'odd'?",
        f"4:101 no text 'stat' {NO_TEXT}. Did you mean 'state'?",
        "5:15 no kind of option 'boldd' in the machine. Did you mean 'bold'?",
        "5:38 no event 'SAYY' in the machine. Did you mean 'SAY'?",
        "5:55 no final state 'MOUTH' in the machine. They are END_OUT, END_LATE",
        f"5:70 no text 'result.txt' {NO_TEXT}. Did you mean 'result.text'?",
        "5:92 no part of meta 'narator' in the machine. Did you mean 'narrator'?",
        "6:6 no event 'sayy' in the machine. Did you mean 'SAY'?",
        "7:58 no error 'event_not_alowed' in the machine. Did you mean 'event_not_allowed'?",
    ]


def test_what_a_step_chooses_is_the_machines_even_where_it_is_to_be_refused():
    (replay,) = replays(
        at(context=f"{{hp: {2**63}, warmth: {-(2**63) - 1}}}")
        + "steps:\n  - {choose: deepr, expect: {error: option_not_offered}}\n"
        + f"  - {{choose: {{kind: boldd}}, expect: {{error: option_not_offered, context: {{hp: {2**64}}}}}}}\n"
        + "  - {choose: 9, expect: {error: option_not_offered}}\n"
    )

    assert [f"{each.line}:{each.code} {each.message}" for each in findings_against(den(), replay)] == [
        "2:E901 'hp' does not fit in 64 bits",
        "2:E901 'warmth' does not fit in 64 bits",
        "4:E901 no option 'deepr' in the machine. Did you mean 'deeper'?",
        "5:E901 no kind of option 'boldd' in the machine. Did you mean 'bold'?",
        "5:E901 'hp' does not fit in 64 bits",
    ]


def test_a_replay_that_chooses_before_it_has_begun_is_told_what_begins_it():
    (replay,) = replays(ANEW + "steps: [{choose: strike}]")

    (found,) = findings_against(den(), replay)

    assert found.message == "the first step sends the initial event: send: INIT, or give a state"


# Replays that begin with another one.


def files(**texts: str) -> dict[str, str]:
    return {f"replays/{name}.replay.yaml": textwrap.dedent(text) for name, text in texts.items()}


def test_what_is_reproduced_comes_first_with_what_it_expects():
    known = files(
        first=ANEW + "each: {language: [zh, en]}\nsteps: [{expect: {state: MOUTH}}]",
        bug='replay: it hangs\nreproduce: first.replay.yaml\nxfail: "#7"\nsteps: [{choose: take}]',
    )  # fmt: skip

    zh, en = read_replays("replays/bug.replay.yaml", known["replays/bug.replay.yaml"], known.__getitem__)[0]

    assert [each.id for each in (zh, en)] == [f"replays/bug.replay.yaml::it hangs[{name}]" for name in ("zh", "en")]
    assert (zh.xfail, zh.given.language, zh.given.machine) == ("#7", "zh", "den")
    assert [step.expect.state for step in zh.steps] == ["MOUTH", None]
    assert [step.places[""] for step in zh.steps] == [
        ("replays/first.replay.yaml", 4, 9), ("replays/bug.replay.yaml", 4, 9),
    ]  # fmt: skip


LEADS_BACK = (
    "leads back to this file: replays/bug.replay.yaml → {}replays/bug.replay.yaml. Let one of them begin by itself"
)


@pytest.mark.parametrize(
    ("bug", "expected"),
    [
        (
            "reproduce: none.replay.yaml",
            "E902 'none.replay.yaml' can't be read: it isn't there, or is no UTF-8. It is relative to this file",
        ),
        ("reproduce: bug.replay.yaml", f"E902 'bug.replay.yaml' {LEADS_BACK.format('')}"),
        (
            "reproduce: a.replay.yaml",
            f"E902 '../replays/bug.replay.yaml' {LEADS_BACK.format('replays/a.replay.yaml → ')}",
        ),
        ("reproduce: faulty.replay.yaml", "E101 no key 'stps' here. Did you mean 'steps'?"),
        (
            "reproduce: first.replay.yaml\ngiven: {machine: den}",
            "E904 the replay that is reproduced says what is given. Delete 'given'",
        ),
    ],
)
def test_what_can_not_be_reproduced_is_a_fault(bug: str, expected: str):
    known = files(
        first=ANEW + "steps: [{}]",
        bug=f"replay: x\n{bug}\nsteps: [{{send: X}}]",
        a="replay: a\nreproduce: ../replays/bug.replay.yaml\nsteps: [{send: X}]",
        faulty=ANEW + "stps: [{}]",
    )

    found, findings = read_replays("replays/bug.replay.yaml", known["replays/bug.replay.yaml"], known.__getitem__)

    assert found == ()
    assert [f"{each.code} {each.message}" for each in findings] == [expected]


def test_replays_are_found_through_and_through_and_never_among_what_failed(tmp_path: Path):
    names = ["b/c/z.replay.yaml", "b/a.replay.yaml", "b/.edgewise/failed/f.replay.yaml", "b/x.yaml", "a.replay.yaml"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    assert replay_files([tmp_path / "b", tmp_path / "b" / "a.replay.yaml"]) == [
        tmp_path / "b" / "a.replay.yaml", tmp_path / "b" / "c" / "z.replay.yaml",
    ]  # fmt: skip
    assert replay_files([tmp_path / names[2]]) == [tmp_path / names[2]]


# Written and read again.


def said(max_size: int) -> st.SearchStrategy[str]:
    """Any text that a file can hold."""
    return st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=max_size)


WORDS = said(max_size=12).filter(bool)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)
SCALARS = st.one_of(st.booleans(), st.integers(-(2**40), 2**40), st.floats(-1e6, 1e6), said(max_size=20))
VALUES = st.one_of(SCALARS, st.lists(said(max_size=8), max_size=3))
ANSWERS = st.recursive(
    st.none() | SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)
BY_LANGUAGE = st.dictionaries(st.sampled_from(["zh", "en", "pt-BR"]), WORDS, min_size=1)
SAID = WORDS | BY_LANGUAGE
TEXTS = st.one_of(
    SAID.map(lambda said: Text(contains=said)),
    st.builds(Text, contains=st.none() | SAID, pattern=st.just("^.*$")),
)
CHOICES = st.one_of(
    NAMES.map(lambda key: Chosen(key=key)), NAMES.map(lambda kind: Chosen(kind=kind)),
    SAID.map(lambda text: Chosen(text=text)), st.integers(1, 9).map(lambda number: Chosen(id=number)),
)  # fmt: skip
MAYBE = st.none() | NAMES
EXPECTS = st.builds(
    Expect, edge=MAYBE, state=MAYBE, context=st.dictionaries(NAMES, VALUES, max_size=3), next=MAYBE,
    allowed=st.none() | st.lists(NAMES, max_size=3).map(tuple), should_end=st.none() | st.booleans(),
    ended=st.none() | st.booleans(), ending=MAYBE, options=st.none() | st.lists(NAMES, max_size=3).map(tuple),
    error=MAYBE, texts=st.dictionaries(st.sampled_from(["scene", "opening.scene", "结果"]), TEXTS, max_size=2),
    meta=st.dictionaries(NAMES, ANSWERS, max_size=2),
)  # fmt: skip
STEPS = st.builds(
    ReplayStep, choose=st.none() | CHOICES, send=NAMES, with_=st.dictionaries(NAMES, st.none() | SCALARS, max_size=3),
    constraints=st.fixed_dictionaries({}, optional={
        "language": st.sampled_from(["zh", None]), "forbidden_terms": st.lists(WORDS, max_size=2),
        "max_chars_scene": st.none() | st.integers(20, 900),
    }),
    dice=st.dictionaries(NAMES, st.integers(1, 20) | st.booleans() | NAMES, max_size=2),
    narrate=st.none() | st.dictionaries(NAMES, ANSWERS, max_size=3), after_ms=st.integers(0, 10**7),
    key=st.none() | st.from_regex(r"[ -~]{1,9}", fullmatch=True), expect=EXPECTS, prompt=st.none() | said(max_size=60),
)  # fmt: skip
REPLAYS = st.builds(
    Replay, name=WORDS, steps=st.lists(STEPS, min_size=1, max_size=3).map(tuple), xfail=st.none() | WORDS,
    given=st.builds(
        Given, machine=NAMES, language=MAYBE, seed=st.none() | NAMES, state=MAYBE,
        context=st.dictionaries(NAMES, VALUES, max_size=3), slots=st.dictionaries(NAMES, st.none() | said(max_size=9)),
        player_count=st.integers(1, 9), difficulty=st.sampled_from(["EASY", "NORMAL", "HARD"]),
        hard_limit_seconds=st.none() | st.floats(0, 1e6),
    ),
)  # fmt: skip


@given(REPLAYS)
def test_what_is_written_reads_back_as_it_was(replay: Replay):
    text = written(replay, "a comment\nof two lines 灯")

    (again,), findings = read_replays("x.replay.yaml", text)

    assert findings == []
    assert bare(again) == replay
    assert text.startswith("# a comment\n# of two lines 灯\nreplay: ")


def test_what_is_the_default_is_not_written():
    (replay,) = replays(at(language="en") + "steps:\n  - {choose: take, expect: {scene: {zh: 灯, en: lamp}}}")

    assert written(replay) == (
        "replay: t\ngiven: {machine: den, language: en, state: MOUTH}\nsteps:\n"
        '  - choose: take\n    expect: {scene: {zh: "灯", en: lamp}}\n'
    )


# The page for testers.


def test_the_pages_example_is_a_test_of_its_project():
    (block,) = [block for block in TESTS.blocks("yaml") if block.section == "Replays"]

    assert block.text == (LANTERN / "replays" / "lantern_house" / "breaks.replay.yaml").read_text(encoding="utf-8")


def keys_of(*kinds: Any) -> list[str]:
    return [name for kind in kinds for name in kind.__struct_encode_fields__]


@pytest.mark.parametrize(
    ("where", "known"),
    [
        ("the file", keys_of(FilePart)),
        ("given", keys_of(Given)),
        ("steps", keys_of(StepPart)),
        ("expect", [*keys_of(ExpectPart), "any.path"]),
    ],
)
def test_the_page_has_every_key_of_a_replay(where: str, known: list[str]):
    part, found = "", []
    for heading, key, about in TESTS.table("Replays"):
        part = heading.strip("`") or part
        if part == where:
            found += ticked(key)
            assert about

    assert found == known
    assert keys_of(EachPart) == keys_of(Given)
    assert keys_of(OptionPart) == ["kind", "text"]
