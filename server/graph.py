"""A machine as a picture: Mermaid, Graphviz's dot, or plain data, with marks on its edges. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from runtime.model import ROOT, said_in
from server.bench.marks import BLANK, Marks

if TYPE_CHECKING:
    from runtime.machine import Machine
    from runtime.model import Edge

MEDIA_TYPES: Final = {"mermaid": "text/plain; charset=utf-8", "dot": "text/vnd.graphviz; charset=utf-8"}
_START = "[*]"
ANYWHERE = "any state"
"""Where root edges stand."""
COLOURS: Final = ("#8a8a8a", "#4a90c2", "#2e9e6b", "#d98a1f", "#d43d2a")
"""Heat, from never to the most; each is told beside it as a number too."""
PATH_COLOUR: Final = "#8e44ad"


def of(machine: Machine) -> dict[str, Any]:
    """States and edges, in the order of the file. A root edge's `from` is `*`, the initial one's None."""
    definition = machine.definition
    return {
        "machine": machine.name,
        "version": definition.version,
        "digest": machine.digest,
        "initial_event": definition.first.event,
        "states": [
            {"name": name, "label": said_in(state.label, definition.language), "is_final": state.is_final}
            for name, state in definition.states.items()
        ],
        "edges": [_plain(edge) for edge in machine.edges],
    }


def _plain(edge: Edge) -> dict[str, Any]:
    return {
        "name": edge.full_name,
        "event": edge.event,
        "from": edge.source or None,
        "to": edge.target,
        "option": edge.option or None,
        "guard": guard_of(edge) or None,
        "must": edge.must,
        "once": bool(edge.once),
    }


def mermaid(machine: Machine, marks: Marks = BLANK, language: str = "") -> str:
    """A state diagram in Mermaid; root edges leave a state called `any state`. Marks stand behind names.

    State diagrams colour no arrows there, so heat colours the states.
    """
    definition = machine.definition
    lines = ["stateDiagram-v2", "    direction LR"]
    if any(edge.source == ROOT for edge in machine.edges):
        lines.append(f'    state "{ANYWHERE}" as {_ANY_ID}')
    for name, state in definition.states.items():
        told = (name, said_in(state.label, language or definition.language), marks.state(name))
        lines.append(f'    state "{_quoted(" ".join(part for part in told if part))}" as {name}')
    lines += [f"    {_mermaid_source(edge)} --> {edge.target}: {_mermaid_label(edge, marks)}" for edge in machine.edges]
    lines += [f"    {name} --> {_START}" for name, state in definition.states.items() if state.is_final]
    lines += _mermaid_colours(machine, marks)
    return "\n".join(lines) + "\n"


_ANY_ID = "any__state"


def _mermaid_source(edge: Edge) -> str:
    return {"": _START, ROOT: _ANY_ID}.get(edge.source, edge.source)


def _mermaid_label(edge: Edge, marks: Marks) -> str:
    """Mermaid ends a label at `;` and `#`, and reads `:` and quotes: write these as entities."""
    return "".join(f"#{ord(char)};" if char in ';#:"<>&{}' else char for char in _marked(edge, marks))


def _mermaid_colours(machine: Machine, marks: Marks) -> list[str]:
    """Classes for the states that have a colour."""
    if marks.is_blank:
        return []
    coloured = {name: _colour_of_state(name, marks) for name in machine.definition.states}
    used = dict.fromkeys(colour for colour in coloured.values() if colour)
    lines = [f"    classDef c{colour[1:]} stroke:{colour},stroke-width:3px" for colour in used]
    return [*lines, *(f"    class {name} c{colour[1:]}" for name, colour in coloured.items() if colour)]


def _colour_of_state(name: str, marks: Marks) -> str:
    level = marks.heat_of_state(name)
    return PATH_COLOUR if marks.is_on_path(name) else "" if level is None else COLOURS[level]


def dot(machine: Machine, marks: Marks = BLANK, language: str = "") -> str:
    """A digraph for Graphviz; final states have two rings, root edges leave a dashed node."""
    definition = machine.definition
    lines = [f'digraph "{_quoted(machine.name)}" {{', "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    lines.append('  "" [shape=point];')
    if any(edge.source == ROOT for edge in machine.edges):
        lines.append(f'  "{ROOT}" [label="{ANYWHERE}", style=dashed];')

    def ink(name: str) -> str:
        return _ink(marks.heat_of_state(name), "rounded,dashed", is_on_path=marks.is_on_path(name))

    for name, state in definition.states.items():
        told = (name, _quoted(said_in(state.label, language or definition.language)), marks.state(name))
        shown = "\\n".join(part for part in told if part)
        lines.append(f'  "{name}" [label="{shown}"{", peripheries=2" if state.is_final else ""}{ink(name)}];')
    lines += [f'  "{edge.source}" -> "{edge.target}" {_dot_label(edge, marks)};' for edge in machine.edges]
    return "\n".join([*lines, "}"]) + "\n"


def _dot_label(edge: Edge, marks: Marks) -> str:
    name = edge.full_name
    ink = _ink(marks.heat(name), "dashed", is_on_path=marks.is_on_path(name))
    return f'[label="{_quoted(_marked(edge, marks))}"{ink}]'


def _ink(level: int | None, never: str, *, is_on_path: bool) -> str:
    """The colour and the width of a line, and its style where it was `never` taken; '' without marks."""
    if is_on_path:
        return f', color="{PATH_COLOUR}", penwidth=2.5'
    if level is None:
        return ""
    return f', color="{COLOURS[level]}", penwidth={1 + level / 2}' + ("" if level else f', style="{never}"')


def _marked(edge: Edge, marks: Marks) -> str:
    return f"{label(edge)} {marks.edge(edge.full_name)}".rstrip()


def label(edge: Edge) -> str:
    """`EVENT / option [guard] must`; of an option with several edges `EVENT / option.edge`."""
    guard = guard_of(edge)
    option = edge.option if edge.name == edge.option else f"{edge.option}.{edge.name}"
    parts = (edge.event, edge.option and f"/ {option}", guard and f"[{guard}]", "must" if edge.must else "")
    return " ".join(part for part in parts if part)


def guard_of(edge: Edge) -> str:
    """An edge's guards as written, on one line; '' where it has none."""
    guards = [_spelled(guard) for guard in (edge.option_guard, edge.guard) if guard is not None]
    return f"({guards[0]}) && ({guards[1]})" if len(guards) > 1 else "".join(guards)


def _spelled(guard: Any) -> str:
    return str(guard).lower() if isinstance(guard, bool) else " ".join(str(guard).split())


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
