"""A machine as a picture: Mermaid, Graphviz's dot, or plain data. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from runtime.model import ROOT, said_in

if TYPE_CHECKING:
    from runtime.machine import Machine
    from runtime.model import Edge

MEDIA_TYPES: Final = {"mermaid": "text/plain; charset=utf-8", "dot": "text/vnd.graphviz; charset=utf-8"}
_START = "[*]"
_ANYWHERE = "any state"


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
        "guard": _guard(edge) or None,
        "must": edge.must,
        "once": bool(edge.once),
    }


def mermaid(machine: Machine) -> str:
    """A state diagram in Mermaid; root edges leave a state called `any state`."""
    definition = machine.definition
    lines = ["stateDiagram-v2", "    direction LR"]
    if any(edge.source == ROOT for edge in machine.edges):
        lines.append(f'    state "{_ANYWHERE}" as {_ANY_ID}')
    for name, state in definition.states.items():
        label = said_in(state.label, definition.language)
        lines.append(f'    state "{_quoted(f"{name} {label}".strip())}" as {name}')
    lines += [f"    {_mermaid_source(edge)} --> {edge.target}: {_mermaid_label(edge)}" for edge in machine.edges]
    lines += [f"    {name} --> {_START}" for name, state in definition.states.items() if state.is_final]
    return "\n".join(lines) + "\n"


_ANY_ID = "any__state"


def _mermaid_source(edge: Edge) -> str:
    return {"": _START, ROOT: _ANY_ID}.get(edge.source, edge.source)


def _mermaid_label(edge: Edge) -> str:
    """Mermaid ends a label at `;` and `#`, and reads `:` and quotes: write these as entities."""
    return "".join(f"#{ord(char)};" if char in ';#:"<>&{}' else char for char in _label(edge))


def dot(machine: Machine) -> str:
    """A digraph for Graphviz; final states have two rings, root edges leave a dashed node."""
    definition = machine.definition
    lines = [f'digraph "{_quoted(machine.name)}" {{', "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    lines.append('  "" [shape=point];')
    if any(edge.source == ROOT for edge in machine.edges):
        lines.append(f'  "{ROOT}" [label="{_ANYWHERE}", style=dashed];')
    for name, state in definition.states.items():
        label = _quoted(said_in(state.label, definition.language))
        shown = f"{name}\\n{label}" if label else name
        lines.append(f'  "{name}" [label="{shown}"{", peripheries=2" if state.is_final else ""}];')
    lines += [f'  "{edge.source}" -> "{edge.target}" [label="{_quoted(_label(edge))}"];' for edge in machine.edges]
    return "\n".join([*lines, "}"]) + "\n"


def _label(edge: Edge) -> str:
    """`EVENT / option [guard] must`."""
    guard = _guard(edge)
    parts = (edge.event, edge.option and f"/ {edge.option}", guard and f"[{guard}]", "must" if edge.must else "")
    return " ".join(part for part in parts if part)


def _guard(edge: Edge) -> str:
    guards = [_spelled(guard) for guard in (edge.option_guard, edge.guard) if guard is not None]
    return f"({guards[0]}) && ({guards[1]})" if len(guards) > 1 else "".join(guards)


def _spelled(guard: Any) -> str:
    return str(guard).lower() if isinstance(guard, bool) else " ".join(str(guard).split())


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
