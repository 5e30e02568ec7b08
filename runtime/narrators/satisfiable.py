"""Whether every turn of a machine can be told under a session's constraints; if not, why.

Asked when constraints are set: whatever passes here, the offline narrator can tell without a
breach, so that no later turn has to break a rule or fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from runtime import constraints
from runtime.constraints import Bounds, find_term, max_chars_of, schema_at, text_paths
from runtime.machine import Machine
from runtime.model import State
from runtime.narrators.sample import smallest
from runtime.narrators.wording import can_tell_apart
from runtime.outputs import TEXTS
from runtime.prompt import Prompt

TEXT_KINDS = TEXTS | {"str"}
"""The kinds whose text the offline narrator finds; any other value is the smallest that its schema allows."""


@lru_cache(maxsize=256)
def why_not(machine: Machine, bounds: Bounds) -> str | None:
    """Why some turn of the machine can't be told under these bounds, or None."""
    return constraints.satisfiable(bounds) or next(_reasons(machine, bounds), None)


def _reasons(machine: Machine, bounds: Bounds) -> Iterator[str]:
    prompts = (machine.prompt_for(edge, bounds.language) for edge in machine.edges)
    for prompt in {prompt.file: prompt for prompt in prompts}.values():
        yield from _outputs(prompt, bounds)
    most = max(map(_offered_at_most, machine.definition.states.values()), default=1)
    if not can_tell_apart(most, bounds):
        yield f"the forbidden terms leave too few letters, digits and marks to tell {most} options apart"


def _offered_at_most(state: State) -> int:
    return max(len(state.authored), len(state.kinds), 1)


def _outputs(prompt: Prompt, bounds: Bounds) -> Iterator[str]:
    for path in sorted(prompt.required):
        schema = schema_at(prompt.outputs, path)
        if is_told(prompt.fields[path], schema):
            least, most = schema.get("minLength", 0), max_chars_of(schema, prompt.fields[path], bounds)
            if least > most:
                yield f"the output '{path}' has at least {least} characters, and {most} are allowed"
            continue
        held = (
            find_term(text, bounds.forbidden_terms) for _, text in text_paths(smallest(schema, bounds.forbidden_terms))
        )
        if term := next(filter(None, held), None):
            yield f"the output '{path}' can only be said with '{term}', which is forbidden"


def is_told(kind: str, schema: Mapping[str, Any]) -> bool:
    """Whether an output is a text to be found, and no value out of a few."""
    return kind in TEXT_KINDS and not ("enum" in schema or "const" in schema)
