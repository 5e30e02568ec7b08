"""`edgewise test`: check, replays, properties, exploration, coverage and mutants, one summary and one exit code.

Start at `test`. Whatever is asked for in `edgewise.yaml` is held; without it, nothing is but that no
machine has a fault, no replay fails, no property is broken and exploration finds nothing wrong.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import replace

from runtime import loader
from runtime.bench import failed
from runtime.bench.coverage import Goal, Goals, Share, merged, missed, shares
from runtime.bench.pool import cores, shared_out
from runtime.bench.replay import Replay
from runtime.errors import Finding
from runtime.request import nearest
from server import project_file
from server.bench.cases import PROJECT, Case, Line, Note, Outcome, as_github, as_json, as_text, in_order, percent
from server.bench.changed import changed_since, touched
from server.bench.gathering import HOW_TO_MAKE_ONE, REPLAYS, Bundles, bundles_of, by_machine, replays_in, writing_to
from server.bench.junit import junit
from server.bench.mutating import Mutated, mutated_of
from server.bench.mutating import told as told_mutants
from server.bench.working import EXPLORATION, Done, Task, case_of_findings, done, judged, prepare
from server.settings import PROJECT_FILE

_WORTH_A_PROCESS = 20
"""How many replays one more process is worth starting for; an exploration always is."""
_SHARD = re.compile(r"([1-9]\d{0,3})/([1-9]\d{0,3})")
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0}
_LISTED = 20
"""How many goals that are missed a case lists."""


class Shard(Struct, frozen=True):
    """One part of all the work: number `index`, from 1, of `count`."""

    index: int
    count: int

    def has(self, key: str) -> bool:
        """Whether a test is in this part, by its id: each is in one part, the same on every machine."""
        return int.from_bytes(sha256(key.encode()).digest()[:8], "big") % self.count == self.index - 1


WHOLE = Shard(1, 1)


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be tested, and how. `replays` are those of this shard; `faulty` are replay files' faults."""

    project: Path
    bundles: Bundles
    replays: Sequence[Replay]
    faulty: Sequence[Finding]
    strays: Sequence[Replay] = ()
    asked: Mapping[str, project_file.Asked]
    shard: Shard = WHOLE
    jobs: int = 1
    ends_at: float | None = None
    is_mutating: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether all replays are played here, so that what they reach together can be judged."""
        return self.shard.count == 1

    def time_is_up(self) -> bool:
        """Whether the budget is used up."""
        return self.ends_at is not None and time.monotonic() >= self.ends_at


def test(options: dict[str, Any]) -> int:
    """Test machines and tell what came of it; 1 where anything has failed. Raises UsageError, DesignError."""
    begun = time.monotonic()
    plan = _planned(options, begun)
    found = replace(run(plan), seconds=time.monotonic() - begun)
    if options["junit"] is not None:
        with writing_to(options["junit"]) as file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(junit(found))
    form = options["form"]
    lines = (
        [as_json(found)] if form == "json" else as_github(found, plan.project) if form == "github" else as_text(found)
    )
    for line in lines:
        click.echo(line)
    return int(found.has_failed)


# The plan.


def _planned(options: Mapping[str, Any], begun: float) -> Plan:
    """What the options ask for. Raises UsageError, DesignError."""
    project = options["project"] or Path()
    shard, budget_s = shard_of(options["shard"]), seconds_of(options["budget"])
    every = bundles_of(project, ())
    bundles = bundles_of(project, options["machines"]) if options["machines"] else every
    replays, faulty = replays_in(project, options["replays"] or project / REPLAYS)
    if options["changed_since"] is not None:
        wanted = touched(bundles, replays, changed_since(project, options["changed_since"]))
        bundles = {name: bundles[name] for name in wanted}
    own_faults = project_file.findings_of(project)
    return Plan(
        project=project,
        bundles=bundles,
        replays=[each for each in replays if each.given.machine in bundles and shard.has(each.id)],
        faulty=[*own_faults, *(each for each in faulty if _is_about(each.file, bundles, every))],
        strays=[
            each for each in replays if each.given.machine not in every and bundles == every and shard.has(each.id)
        ],
        asked={} if own_faults else {name: project_file.thresholds_of(project, name) for name in bundles},
        shard=shard,
        jobs=options["jobs"] or cores(),
        ends_at=None if budget_s is None else begun + budget_s,
        is_mutating=options["is_mutating"],
    )


def _is_about(file: str, bundles: Bundles, every: Bundles) -> bool:
    """Whether a replay file, which can't be read, is about a machine that is tested: by its folder."""
    folders = {part for part in Path(file).parts if part in every}
    return not folders or not folders.isdisjoint(bundles)


def shard_of(written: str | None) -> Shard:
    """`2/5`: the second of five parts. Raises UsageError."""
    if written is None:
        return WHOLE
    found = _SHARD.fullmatch(written.strip())
    if found is None or int(found[1]) > int(found[2]):
        raise click.UsageError(f"--shard is a part of all parts, like 2/5, and not '{written}'.")
    return Shard(int(found[1]), int(found[2]))


def seconds_of(written: str | None) -> float | None:
    """`60s`, `2m`, `1.5h`; a number alone is seconds. Raises UsageError."""
    if written is None:
        return None
    found = _TIME.fullmatch(written.strip())
    if found is None or not float(found[1]):
        raise click.UsageError(f"--budget is a time, like 60s or 2m, and not '{written}'.")
    return float(found[1]) * _SECONDS[found[2]]


# The run.


def run(plan: Plan) -> Outcome:
    """Do the plan's work: all pieces by whichever process is free, then what needs all of them."""
    tasks = list(_tasks(plan))
    came = _all_done(plan, tasks)
    by_name = {name: _Machine(name, plan, tasks, came) for name in plan.bundles}
    cases = [*_of_files(plan), *(case for each in by_name.values() for case in each.cases())]
    left_out = [case.name if case.what == "replay" else f"{case.machine}: {case.name}"
                for case in cases if case.verdict == "left out"]  # fmt: skip
    return Outcome(
        cases=in_order(cases, plan.bundles),
        machines=tuple(each.line() for each in by_name.values()),
        said=tuple(_said(plan, left_out)),
        hints=tuple(_hints(plan, by_name.values())),
    )


def _tasks(plan: Plan) -> Iterator[Task]:
    """Checks, replays, then explorations, which take longest and of which part of the time is something, too."""
    own = [name for name in plan.bundles if plan.shard.has(name)]
    for name in own:
        yield Task(what="check", machine=name)
    for replay in plan.replays:
        yield Task(what="replay", machine=replay.given.machine, replay=replay)
    for name in own:
        yield Task(what="explore", machine=name, ends_at=plan.ends_at)


def _all_done(plan: Plan, tasks: Sequence[Task]) -> dict[int, Done]:
    """What came of the tasks, by their numbers; those are absent that there was no time for."""
    came: dict[int, Done] = {}
    heavy = sum(task.what == "explore" for task in tasks)
    worth = min(plan.jobs, max(1, heavy) + len(plan.replays) // _WORTH_A_PROCESS)
    with click.progressbar(length=len(tasks), label="tests", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for number, each in shared_out(done, tasks, worth, prepare, (plan.bundles,)):
            came[number] = each
            bar.update(1)
            if plan.time_is_up():
                break
    return came


def _of_files(plan: Plan) -> Iterator[Case]:
    """What is wrong with the project's own file and with replay files, a case for each file, in one shard."""
    files = [each for each in dict.fromkeys(each.file for each in plan.faulty) if plan.shard.has(each)]
    is_own_fine = all(each.file != PROJECT_FILE for each in plan.faulty) and (plan.project / PROJECT_FILE).exists()
    if is_own_fine and plan.shard.has(PROJECT_FILE):
        yield Case(machine=PROJECT, what="check", name=PROJECT_FILE, verdict="passed")
    for file in files:
        yield case_of_findings(PROJECT, file, [each for each in plan.faulty if each.file == file])
    for replay in plan.strays:
        meant = nearest(replay.given.machine, plan.bundles)
        mend = f" Did you mean '{meant}'?" if meant else ""
        line = f"there is no machine '{replay.given.machine}'.{mend}"
        yield Case(
            machine=PROJECT, what="replay", name=replay.id, verdict="failed", file=replay.file, line=1, lines=(line,)
        )


def _said(plan: Plan, left_out: Sequence[str]) -> Iterator[str]:
    if left_out:
        more = f" and {len(left_out) - _LISTED:,} more" if len(left_out) > _LISTED else ""
        yield f"incomplete: the time was up. Left out: {', '.join(left_out[:_LISTED])}{more}"
    if not plan.is_whole:
        part = f"shard {plan.shard.index} of {plan.shard.count}"
        yield f"{part}: what replays reach together, coverage and mutants, is judged only where all are played"


def _hints(plan: Plan, machines: Iterable[_Machine]) -> Iterator[str]:
    if not plan.bundles:
        yield "nothing changed: no machine is to be tested"
    bare = [each.name for each in machines if not each.replays]
    if bare and plan.is_whole:
        yield f"no replay plays {', '.join(bare)}. {HOW_TO_MAKE_ONE}."


class _Machine:
    """What came of all work on one machine."""

    def __init__(self, name: str, plan: Plan, tasks: Sequence[Task], came: Mapping[int, Done]) -> None:
        self.name = name
        self._plan = plan
        self.replays = by_machine(plan.replays, [name])[name]
        self._tasks = [(task, came.get(number)) for number, task in enumerate(tasks) if task.machine == name]
        self._reached = merged(*(each.coverage for each in self._of("replay") if each.coverage is not None))
        self._explored = [judged(each, self._reached.endings) for each in self._of("explore")]
        self._checked = next(iter(self._of("check")), None)
        self._is_complete = all(each is not None for _, each in self._tasks)
        self._mutated = self._mutate()
        for each in (*self._of("replay"), *self._explored):
            _keep(plan.project, each)

    def _of(self, what: str) -> list[Done]:
        return [each for task, each in self._tasks if task.what == what and each is not None]

    @property
    def _goals(self) -> Goals:
        return self._checked.goals if self._checked else ()

    @property
    def _is_judged(self) -> bool:
        """Whether what the replays reach together is known."""
        return self._plan.is_whole and bool(self._goals) and self._is_complete

    def _mutate(self) -> Mutated | None:
        asked = self._plan.asked.get(self.name)
        is_asked = self._plan.is_mutating or (asked is not None and asked.mutation is not None)
        if not is_asked or not self._is_judged or self._plan.time_is_up() or not self.replays:
            return None
        machine = loader.load(self._plan.bundles[self.name])
        return mutated_of(machine, self.replays, self._plan.jobs, self._plan.ends_at)

    def cases(self) -> Iterator[Case]:
        """Its check, its replays, its exploration, then what its replays reach."""
        explored = iter(self._explored)
        for task, came in self._tasks:
            if came is None:
                yield _left_out(task)
            else:
                yield next(explored).case if task.what == "explore" else came.case
        asked = self._plan.asked.get(self.name, project_file.Asked())
        if self._plan.is_whole and self._goals:
            yield from (self._covering(kind, least) for kind, least in asked.coverage.items())
        yield from self._mutating(asked.mutation)

    def _covering(self, kind: str, least: float) -> Case:
        name = f"coverage of {kind}"
        if not self._is_judged:
            return Case(machine=self.name, what="coverage", name=name, verdict="left out")
        wanted = [goal for goal in self._goals if goal.kind == kind]
        share = next(iter(shares(self._reached, wanted).values()), Share(0, 0))
        lacking = missed(self._reached, wanted)
        if share.percent >= least:
            return Case(machine=self.name, what="coverage", name=name, verdict="passed")
        listed = [f"{goal.place} {goal.name}" for goal in lacking[:_LISTED]]
        more = [f"and {len(lacking) - _LISTED:,} more"] if len(lacking) > _LISTED else []
        return Case(
            machine=self.name,
            what="coverage",
            name=name,
            verdict="failed",
            file=lacking[0].place.file,
            line=lacking[0].place.line,
            lines=(f"{percent(share.percent)} is under {least:g}%. Replays miss:", *listed, *more),
            notes=tuple(_note(goal) for goal in lacking),
        )

    def _mutating(self, least: float | None) -> Iterator[Case]:
        page = self._mutated
        case = Case(machine=self.name, what="mutation", name="mutants killed", verdict="passed")
        if page is None:
            if (least is not None or self._plan.is_mutating) and self._plan.is_whole and self._goals:
                yield self._unmutated(case, least)
            return
        if page.left_out:
            yield replace(case, verdict="left out", lines=(f"{page.left_out:,} mutants were left out",))
            return
        if least is None or page.score.percent >= least:
            yield replace(case, seconds=page.seconds)
            return
        first = page.of("survived")[0].mutant
        lines = (f"{percent(page.score.percent)} is under {least:g}%", *told_mutants(page))
        yield replace(
            case,
            verdict="failed",
            file=first.file,
            line=first.line,
            lines=lines,
            notes=tuple(
                Note(each.mutant.file, each.mutant.line, each.mutant.col, f"no replay notices: {each.mutant.diff}")
                for each in page.of("survived")
            ),
            seconds=page.seconds,
        )

    def _unmutated(self, case: Case, least: float | None) -> Case:
        if self.replays:
            return replace(case, verdict="left out")
        lines = ("no replay plays this machine, so none can notice anything",)
        return replace(case, verdict="failed" if least else "skipped", lines=lines, file=self._goals[0].place.file)

    def line(self) -> Line:
        """Its line in the summary."""
        broken = {name for each in (*self._of("replay"), *self._explored) for name in each.broken}
        turns = sum(each.coverage.turns for each in self._explored if each.coverage is not None)
        return Line(
            machine=self.name,
            properties=max((each.properties for _, each in self._tasks if each is not None), default=0),
            broken=len(broken),
            explored_turns=turns or None,
            shares={**shares(self._reached, self._goals)} if self._is_judged else {},
            score=self._mutated.score if self._mutated and not self._mutated.left_out else None,
        )


def _note(goal: Goal) -> Note:
    return Note(goal.place.file, goal.place.line, 0, f"no replay covers {goal.name}")


def _left_out(task: Task) -> Case:
    name = task.replay.id if task.replay is not None else EXPLORATION if task.what == "explore" else "check"
    file = task.replay.file if task.replay is not None else ""
    return Case(machine=task.machine, what=task.what, name=name, verdict="left out", file=file)


def _keep(project: Path, found: Done) -> None:
    """Keep what failed as replays of their own; what failed before and passes now is kept no longer."""
    folder = project / failed.FOLDER
    if found.case.what == "replay" and not found.runs:
        (folder / failed.failed_name(found.case.name)).unlink(missing_ok=True)
    if not found.runs:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    for name, text in found.runs.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
