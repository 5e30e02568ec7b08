"""What may stand in a template: the allow-list, and the budget that holds where a list can't."""

from __future__ import annotations

import re

import pytest

from runtime.budget import MAX_CHARS, Budget, PromptError
from runtime.source import CODES, Source
from runtime.template import FILTERS, compile_template, render_template

INPUTS = {
    "x": "text",
    "n": 7,
    "items": list(range(2_000)),
    "big": "x" * 60_000,
    "recent": [{"choice": "up", "scene": "点。"}, {"choice": "down", "scene": "b"}],
    "bag": ["lamp", "Key"],
    "hp": {"before": 3},
    "none": None,
}


def flaws(text):
    return compile_template(Source("f", text), {})[1]


def rendered(text):
    template, found = compile_template(Source("f", text), {})
    assert template is not None, found
    return render_template(template, INPUTS, Budget())


REFUSED = [
    ("{% import 'a' as b %}", "E421"),
    ("{% from 'a' import b %}", "E421"),
    ("{% extends 'a' %}", "E421"),
    ("{% block a %}{% endblock %}", "E421"),
    ("{% macro a() %}{% endmacro %}", "E421"),
    ("{% call x() %}{% endcall %}", "E421"),
    ("{% filter upper %}a{% endfilter %}", "E421"),
    ("{% set a %}b{% endset %}", "E421"),
    ("{% autoescape true %}{% endautoescape %}", "E421"),
    ("{{ range(10**9) }}", "E421"),
    ("{{ lipsum() }}", "E421"),
    ("{{ cycler(1) }}", "E421"),
    ("{{ x.upper() }}", "E421"),
    ("{{ '%s' | format(x) }}", "E422"),
    ("{{ x.format(1) }}", "E421"),
    ("{% for a in x recursive %}{% endfor %}", "E421"),
    ("{{ [x, x] }}", "E421"),
    ("{% set a = [x, x] %}", "E421"),
    ("{{ {'a': x} }}", "E421"),
    ("{{ x | join(*items) }}", "E421"),
    ("{% include 'a' ignore missing %}", "E421"),
    ("{{ x | center(10**9) }}", "E422"),
    ("{{ x | attr('upper') }}", "E422"),
    ("{{ x | pprint }}", "E422"),
    ("{{ x | safe }}", "E422"),
    ("{{ items | random }}", "E422"),
    ("{{ x is callable }}", "E422"),
    ("{{ 2 ** 9 }}", "E423"),
    ("{{ '%9999999d' % 1 }}", "E423"),
    ("{{ 'A' * 10 }}", "E423"),
    ("{{ n * 'A' }}", "E423"),
    ("{{ [1] * 9 }}", "E423"),
    ("{{ [1] + [2] }}", "E423"),
    ("{{ ''.__class__.__mro__ }}", "E424"),
    ("{{ x['__class__'] }}", "E424"),
    ("{{ _x }}", "E424"),
    ("{{ self }}", "E424"),
    ("{{ varargs }}", "E424"),
    ("{% for a in x %}{% for b in x %}{% for c in x %}{% endfor %}{% endfor %}{% endfor %}", "E425"),
    ("{% include x %}", "E426"),
    ("{% include ['a', 'b'] %}", "E426"),
    ("{% include 'nowhere' %}", "E426"),
    ("{{ x", "E420"),
    ("{% if x %}", "E420"),
    ("{% nonsense %}", "E420"),
    ("{{ " + "(" * 5_000 + "x" + ")" * 5_000 + " }}", "E420"),
    ("{{ " + "not " * 500 + "x }}", "E420"),
    ("{{ x" + ".a" * 5_000 + " }}", "E420"),
    ("{% if x %}" * 60 + "{% endif %}" * 60, "E420"),
    ("{{ " + "9" * 10_000 + " }}", "E420"),
    ("a" * (MAX_CHARS + 1), "E420"),
]


@pytest.mark.parametrize(("text", "code"), REFUSED, ids=[f"{code}-{text[:24]}" for text, code in REFUSED])
def test_what_prompts_do_not_have_is_refused_when_read(text, code):
    template, found = compile_template(Source("f", text), {})

    assert template is None
    assert code in {flaw.code for flaw in found}
    assert {flaw.code for flaw in found} <= set(CODES)


CAPPED = [
    "{{ n * big }}",
    "{% for a in items %}{% for b in items %}{{ b }}{% endfor %}{% endfor %}",
    "{% for a in items %}{% for b in items %}{% endfor %}{% endfor %}",
    "{% for a in items %}{% for b in items %}{% set c = big | upper %}{% endfor %}{% endfor %}",
    "{{ big ~ big }}",
    "{% for a in bag %}{{ big }}{% endfor %}",
    "{% set a = big + big %}" + "{% set a = a + a %}" * 40,
    "{% set a = x ~ x %}" + "{% set a = a ~ a %}" * 40,
    "{% set a = 'x' | replace('x', 'xx') %}" + "{% set a = a | replace('x', 'xx') %}" * 40,
    "{{ big | replace('x', 'y' * 1) }}" * 3,
    "{{ big | list | join(big) }}",
    "{{ items | join('x' | indent(1000, true)) }}",
    "{{ x | indent(10 * 100000000) }}",
    "{{ items | batch(1000000000) }}",
    "{{ n | round(-1000000000) }}",
    "{{ n * 1000000000000000000 * 1000000000000000000 }}",
    "{% for a in items %}{% if (big | upper | lower | upper) in big %}{% endif %}{% endfor %}",
]


@pytest.mark.parametrize("text", CAPPED)
def test_what_could_grow_is_refused_or_stopped(text):
    template, _ = compile_template(Source("f", text), {})
    if template is not None:
        with pytest.raises(PromptError):
            render_template(template, INPUTS, Budget())


@pytest.mark.parametrize(
    "text",
    ["{{ x.upper }}", "{{ hp.keys }}", "{{ x['upper'] }}", "{{ items.append }}", "{{ n.real }}", "{{ loop }}"],
)
def test_no_attribute_of_python_is_ever_read(text):
    template, _ = compile_template(Source("f", text), {})

    with pytest.raises(PromptError, match=r"attribute|undefined"):
        render_template(template, INPUTS, Budget())


def test_keys_that_python_has_as_methods_are_read_as_keys():
    template, _ = compile_template(Source("f", "{{ slots.items }} {{ slots.get }}"), {})

    assert render_template(template, {"slots": {"items": "a", "get": "b"}}, Budget()) == "a b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ bag | join('、') }}", "lamp、Key"),
        ("{{ bag | sort | join }} {{ 'ab' | list | join('-') }}", "Keylamp a-b"),
        ("{{ bag | map('x') }}", None),
        ("{{ recent | map(attribute='choice') | join(',') }}", "up,down"),
        ("{{ recent | join(',', attribute='choice') }}", "up,down"),
        ("{{ recent | length }} {{ recent | count }}", "2 2"),
        ("{{ (recent | first).choice }} {{ (recent | last).choice }}", "up down"),
        ("{{ [] | first | default('none') }}", "none"),
        ("{{ [] | max }}", None),
        ("{{ [3, 1] | max }} {{ [3, 1] | min }}", "3 1"),
        ("{{ nothing | default('a') }} {{ none | default('b', true) }} {{ x | d('c') }}", "a b text"),
        ("{{ x | upper }} {{ x | capitalize }} {{ x | title }} {{ 'A' | lower }}", "TEXT Text Text a"),
        ("{{ ' a ' | trim }}|{{ 'abcdef' | truncate(4) }}|{{ 'ab' | truncate(4) }}", "a|abc…|ab"),
        ("{{ '3.7' | int }} {{ '3.5' | float }} {{ 'x' | int }} {{ 'x' | int(9) }}", "3 3.5 0 9"),
        ("{{ 2.345 | round(1) }} {{ -3 | abs }} {{ 7 // 2 }} {{ 1 + 2 * 3 - 4 }}", "2.3 3 3 3"),
        ("{{ {'点': 1} | tojson }} {{ bag | tojson }}", '{"点": 1} ["lamp", "Key"]'),
        ("{{ 'aXbX' | replace('X', '-') }} {{ 'aXbX' | replace('X', '-', 1) }}", "a-b- a-bX"),
        ("{% for pair in [1, 2, 3] | batch(2) %}{{ pair | join('+') }};{% endfor %}", "1+2;3;"),
        ("{{ [1, 2, 1] | unique | join }} {{ 'abc' | reverse }} {{ [1, 2] | reverse | join }}", "12 cba 21"),
        ("{% for k, v in hp | items %}{{ k }}={{ v }}{% endfor %}", "before=3"),
        ("{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{% endfor %}", "ab"),
        ("{{ 'a\nb' | indent(2) }}|{{ none | string }}", "a\n  b|"),
        ("{{ x ~ '-' ~ n ~ none }} {{ x + '!' }}", "text-7 text!"),
        ("{{ x[:2] }}{{ bag[0] }}{{ recent[-1].choice }}", "telampdown"),
        ("{{ 'calm' if n > 3 }}{{ 'tense' if n > 9 }}", "calm"),
        ("{% for b in bag %}{{ loop.index }}{{ '' if loop.last else ',' }}{% else %}-{% endfor %}", "1,2"),
        ("{% for b in bag if b != 'Key' %}{{ b }}{% endfor %}", "lamp"),
        ("{% with a = n %}{{ a }}{% endwith %}{% set b = 'x' %}{{ b }}", "7x"),
        ("{% if 'lamp' in bag and n is odd and x is defined %}yes{% endif %}", "yes"),
        ("{{ 'x' if x in ['text', 'word'] else 'y' }}{# a comment #}", "x"),
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("{{ n / 0 }}", None),
        ("{{ x - 1 }}", None),
        ("{{ bag + bag }}", None),
        ("{{ bag | items }}", None),
        ("{{ none | join }}", None),
    ],
)
def test_what_prompts_have(text, expected):
    if expected is None:
        with pytest.raises(PromptError):
            rendered(text)
    else:
        assert rendered(text) == expected


def test_every_filter_on_the_list_is_shown_by_a_test():
    shown = " ".join(str(mark.args) for mark in test_what_prompts_have.pytestmark)

    assert [name for name in sorted(FILTERS) if not re.search(rf"\| {name}\b", shown)] == []


def test_a_text_as_long_as_may_be_passes_and_one_longer_does_not():
    template, _ = compile_template(Source("f", "{{ a }}{{ b }}"), {})

    assert len(render_template(template, {"a": "x" * 60_000, "b": "y" * 5_536}, Budget())) == MAX_CHARS
    with pytest.raises(PromptError, match="65,536"):
        render_template(template, {"a": "x" * 60_000, "b": "y" * 5_537}, Budget())


def test_a_flaw_points_at_the_code_and_not_at_the_same_word_in_the_text():
    (flaw,) = flaws("center\ncenter 'center' {{ 'center' }} {{ x | center }} {# center #}")

    assert (flaw.line, flaw.col) == (2, 39)


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("{{ hp.items() }}", "Write `| items`."),
        ("{{ x | uper }}", "Did you mean 'upper'?"),
        ("{{ 7 % 2 }}", "is divisibleby(n)"),
        ("{% macro a() %}{% endmacro %}", "include a file"),
        ("{{ x is odds }}", "Did you mean 'odd'?"),
    ],
)
def test_a_flaw_names_the_mend(text, mend):
    (flaw,) = flaws(text)

    assert mend in flaw.message
