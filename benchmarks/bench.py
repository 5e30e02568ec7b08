"""The bench's turns, rule-only and told offline, beside a bare `transitions` machine and a LangGraph graph.

    uv run --with langgraph benchmarks/bench.py [MACHINE ...] [--seconds 1] [--rounds 3] [-j 2] [--json FILE]

All walk the same states in the same run, one after the other in each round, on one core. `rules` is a
turn by the machine's rules alone (dice, guards, assigns, routing); `told` is that turn with its prompt
rendered and all its texts told by the offline narrator. The other two are given the path, and neither
roll, nor judge, nor remember: `transitions` fires a trigger for each step, LangGraph runs a node for each
state and asks a conditional edge for the next, one `invoke` for a session, without a checkpointer.
The seconds are the core's own, so that what else runs takes none. Last, `rules` and `told` by the
clock in as many processes as `-j` says, each process's rate added up. LangGraph is no dependency of the
project: without `--with langgraph` its column stays empty. Where other work shares the caches, figures
fall together: read the ratios first.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

import transitions

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from runtime import loader  # noqa: E402 - the project's own, wherever it is run from
from runtime.bench.pool import cores, shared_out  # noqa: E402
from runtime.bench.trial import Step, Trial  # noqa: E402
from runtime.errors import Refusal  # noqa: E402
from runtime.machine import Machine  # noqa: E402
from runtime.session import Invoke, Session  # noqa: E402

SESSIONS = 40
"""How many sessions a path is made of; walked again from the first where there is time."""
MOST_TURNS = 60
WORDS: dict[str, Any] = {"text": "油灯", "str": "lamp", "int": 1, "float": 1.0, "bool": True}
"""What is sent where an event wants a payload, by type."""
KINDS = ("rules", "told", "transitions", "langgraph")
NO_LANGGRAPH = "LangGraph isn't installed; to see it beside: uv run --with langgraph benchmarks/bench.py"
Walk = list[tuple[str, str]]
"""A session's turns: the edge that each took, and the state where it led."""
Play = Callable[..., tuple[int, float]]
"""Plays for so many seconds of a clock, else of a core: how many turns it took, and the seconds."""


class Walking(TypedDict):
    """What the LangGraph graph carries: the states to walk, and how many it has walked."""

    path: list[str]
    at: int


class Walker:
    """What the bare library moves."""

    state: str
    trigger: Callable[[str], bool]


def next_invoke(machine: Machine, session: Session, rng: random.Random) -> Invoke:
    """What a player sends next: one of the options, else the event that may come with its payload."""
    if session.offer:
        return Invoke(selected_option_id=rng.choice(session.offer).id)
    event = session.routing.next_event_type or session.routing.allowed_event_types[0]
    payload = {name: WORDS[kind.rstrip("?")] for name, kind in machine.definition.event(event).payload.items()}
    return Invoke(event=event, payload=payload)


def steps_of(trial: Trial, seed: int) -> Iterator[Step]:
    """One session of a machine, turn by turn; the same for a seed, told or not."""
    rng = random.Random(seed)
    machine = trial.machine
    step = trial.begin(Invoke(event=machine.definition.first.event, run_seed=str(seed)))
    yield step
    for _ in range(MOST_TURNS):
        session = step.after
        if session.ended or not session.routing.allowed_event_types:
            return
        try:
            step = trial.take(session, next_invoke(machine, session, rng))
        except Refusal:
            return
        yield step


def played(machine: Machine, *, tells: bool) -> Play:
    """Sessions on trial."""
    trial = Trial(machine, tells=tells)
    return repeated(lambda seed: sum(1 for _ in steps_of(trial, seed)))


def repeated(session: Callable[[int], int]) -> Play:
    """Session after session until the time is over; one ahead, so that what is made once is there."""
    session(0)

    def play(seconds: float, clock: Callable[[], float] = time.process_time) -> tuple[int, float]:
        turns, number, start = 0, 0, clock()
        while (took := clock() - start) < seconds:
            turns += session(number % SESSIONS)
            number += 1
        return turns, took

    return play


def walks_of(machine: Machine) -> list[Walk]:
    """The paths that all of them walk."""
    trial = Trial(machine)
    return [[(step.outcome.edge, step.after.state) for step in steps_of(trial, seed)] for seed in range(SESSIONS)]


def bare(machine: Machine, walks: list[Walk]) -> Play:
    """The `transitions` library alone: a trigger for each edge, no guards, nothing kept."""
    first = machine.initial.edge
    library = transitions.Machine(
        model=None, states=["", *machine.definition.states], initial="", auto_transitions=False
    )
    for edge in (first, *machine.edges[1:]):
        # A root edge leaves every state, as it does in ours.
        library.add_transition(edge.full_name, "" if edge is first else "*", edge.target)

    def session(number: int) -> int:
        model = Walker()
        library.add_model(model)
        for edge, state in walks[number]:
            model.trigger(edge)
            assert model.state == state  # noqa: S101 - a walk elsewhere says nothing
        library.remove_model(model)
        return len(walks[number])

    return repeated(session)


def graphed(machine: Machine, walks: list[Walk]) -> Play:
    """A LangGraph graph: a node for each state, and a conditional edge that says which comes next."""
    from langgraph.graph import END, START, StateGraph  # noqa: PLC0415 - where it is installed

    graph = StateGraph(Walking)
    names = {state: f"at_{state}" for state in machine.definition.states}

    def onward(walking: Walking) -> str:
        return names[walking["path"][walking["at"]]] if walking["at"] < len(walking["path"]) else END

    for name in names.values():
        graph.add_node(name, lambda walking: {"at": walking["at"] + 1})
        graph.add_conditional_edges(name, onward, [*names.values(), END])
    graph.add_conditional_edges(START, onward, [*names.values(), END])
    compiled = graph.compile()
    paths = [[state for _, state in walk] for walk in walks]

    def session(number: int) -> int:
        found = compiled.invoke({"path": paths[number], "at": 0}, {"recursion_limit": MOST_TURNS + 5})
        assert found["at"] == len(paths[number])  # noqa: S101 - a walk that stops says nothing
        return len(paths[number])

    return repeated(session)


def measured(machine: Machine, seconds: float, rounds: int) -> dict[str, Any]:
    """Turns a second of each kind on one core: the medians, and the ratios to `rules` within each round."""
    walks = walks_of(machine)
    plays = {
        "rules": played(machine, tells=False),
        "told": played(machine, tells=True),
        "transitions": bare(machine, walks),
    }
    if find_spec("langgraph"):
        plays["langgraph"] = graphed(machine, walks)
    found = [{kind: rate(play(seconds)) for kind, play in plays.items()} for _ in range(rounds)]
    return {
        "per_second": {kind: statistics.median(each[kind] for each in found) for kind in plays},
        "to_rules": {kind: statistics.median(each[kind] / each["rules"] for each in found) for kind in plays},
        "states": len({state for walk in walks for _, state in walk}),
    }


def rate(played_: tuple[int, float]) -> float:
    """Turns a second."""
    turns, seconds = played_
    return turns / seconds


_here: dict[str, Play] = {}
"""What a process of its own plays."""


def get_ready(name: str) -> None:
    """Load a machine in a process of its own."""
    machine = loader.load_project(ROOT)[name]
    _here.update(rules=played(machine, tells=False), told=played(machine, tells=True))


def play_here(asked: tuple[str, float]) -> tuple[str, float]:
    """Play one kind for so long in this process."""
    kind, seconds = asked
    return kind, rate(_here[kind](seconds, time.perf_counter))


def together(name: str, seconds: float, jobs: int) -> dict[str, float]:
    """Turns a second of all processes together."""
    asked = [(kind, seconds) for kind in ("rules", "told") for _ in range(jobs)]
    sums = {"rules": 0.0, "told": 0.0}
    for _, (kind, found) in shared_out(play_here, asked, jobs, get_ready, (name,)):
        sums[kind] += found
    return sums


def print_table(found: dict[str, Any]) -> None:
    """The figures, for people: turns a second, and beside `rules` how many times as many."""
    print(f"turns a second on one core, median of {found['rounds']} rounds of {found['seconds']:g} s each")
    print(f"{'':16}" + "".join(f"{kind:>20}" for kind in KINDS) + f"{'rules -j ' + str(found['jobs']):>14}{'told':>8}")
    for name, row in found["machines"].items():
        cells = "".join(_cell(row, kind) for kind in KINDS)
        print(f"{name:16}{cells}{row['together']['rules']:14.0f}{row['together']['told']:8.0f}")
    if not find_spec("langgraph"):
        print(NO_LANGGRAPH)


def _cell(row: dict[str, Any], kind: str) -> str:
    if kind not in row["per_second"]:
        return f"{'-':>20}"
    return f"{row['per_second'][kind]:12.0f}{row['to_rules'][kind]:7.2f}×"


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help="those to play; all where none is named")
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-j", "--jobs", type=int, default=cores(), help="how many processes play at once in the end")
    parser.add_argument("--json", type=Path, help="write the figures to this file, - for standard output")
    given = parser.parse_args()
    names = sorted(path.stem for path in (ROOT / "machines").glob("*.yaml"))
    if unknown := [name for name in given.machines if name not in names]:
        parser.error(f"there is no machine '{unknown[0]}'; there are {', '.join(names)}")
    machines = loader.load_project(ROOT)
    rows = {
        name: measured(machines[name], given.seconds, given.rounds)
        | {"together": together(name, given.seconds, given.jobs)}
        for name in given.machines or machines
    }
    found = {"seconds": given.seconds, "rounds": given.rounds, "jobs": given.jobs, "machines": rows}
    print_table(found)
    if given.json:
        text = json.dumps(found, indent=2)
        print(text) if str(given.json) == "-" else given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
