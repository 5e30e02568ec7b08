"""What the pipeline itself costs a turn, rung by rung, beside the strict path in the same run.

    uv run benchmarks/rungs.py [--rounds 7] [--language zh] [--json FILE]

One turn of haunted_house is told again and again from answers that are good, sloppy, wrong or
missing; no model and no network. The machines are shared and noisy: each figure is the least of
the rounds, and the ratio to the strict path (a good answer, parsed, judged and concluded) is what
to read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from runtime import loader
from runtime.constraints import text_breaches
from runtime.facts import contradictions
from runtime.leaks import leaked
from runtime.narrators import Narration, Task, chat, ladder, reading
from runtime.narrators.offline import Offline, tell
from runtime.narrators.profile import PROFILES
from runtime.narrators.release import Release
from runtime.session import Invoke
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime, play

ROOT = Path(__file__).parents[1]
MACHINE = "haunted_house"
STRICT = "strict path: parse, judge, conclude"
AT_LEAST_S = 0.02
"""How long a round lasts at least: so often is the work repeated."""
PIECE_CHARS = 4
"""How much a stream brings at a time, in code points."""
MANY_TERMS = 200


class Row(Struct, frozen=True):
    """One rung: microseconds a turn, and that as a share of the strict path."""

    rung: str
    micros: float
    ratio: float


class Caught(Offline):
    """Tells offline, and keeps the task."""

    task: Task

    async def narrate(self, task: Task, release: Release) -> Narration:
        """Tell the task."""
        self.task = task
        return await super().narrate(task, release)


async def caught(language: str) -> Task:
    """The task of the second turn of a session, with a prompt, options and facts."""
    narrator = Caught()
    runtime = await opened(narrator)
    first = {"event": "INIT", "run_seed": "bench", "constraints": {"language": language}}
    await play(runtime, Invoke(session_id="s", **first))
    await play(runtime, Invoke(session_id="s", selected_option_id=1))
    return narrator.task


async def opened(narrator: Offline) -> Runtime:
    """A runtime in memory."""
    runtime = Runtime(MemoryStore(), narrator, loader.load_project(ROOT), MACHINE)
    await runtime.open()
    return runtime


def answer_of(task: Task) -> dict[str, Any]:
    """A model's good answer: the offline narrator's."""
    told = tell(task)
    options = [{"key": key, "text": text} for key, text in told.options.items()]
    return {**told.output, "ai_state": dict(told.ai_state), "options": options}


def sloppy(text: str) -> str:
    """The same answer with a fence, prose, full-width marks and a comma too many."""
    return "Sure:\n```json\n" + text[:-1].replace('":', '"：').replace('",', '"，') + ",}\n```\nThere."


def strict(task: Task, text: str) -> Narration:
    """The way of a good answer."""
    return ladder.concluded(task, ladder.received(task, text, "stop"), narrator="bench")


def released(task: Task, text: str) -> int:
    """A stream of an answer, heard sentence by sentence; how many pieces were heard."""
    heard: list[Any] = []
    release = Release(task, lambda _, data: heard.append(data))
    for start in range(0, len(text), PIECE_CHARS):
        release.feed(text[start : start + PIECE_CHARS])
    release.hold()
    return len(heard)


def rungs(task: Task) -> dict[str, Callable[[], Any]]:
    """The work of each rung on one turn."""
    good = answer_of(task)
    text = json.dumps(good, ensure_ascii=False)
    scene: str = good["scene"]
    overlong = json.dumps({**good, "scene": scene * 9}, ensure_ascii=False)
    missing = json.dumps({name: value for name, value in good.items() if name != "scene"}, ensure_ascii=False)
    terms = tuple(
        f"{first}{second}禁"
        for first in "甲乙丙丁戊己庚辛壬癸"
        for second in "子丑寅卯辰巳午未申酉戌亥甲乙丙丁戊己庚辛"
    )
    bounds = {count: replace(task.bounds, forbidden_terms=terms[:count], rated_terms=()) for count in (0, MANY_TERMS)}
    long_draft, short_draft = (ladder.received(task, each, "stop") for each in (overlong, missing))
    heard = released(task, text)
    return {
        STRICT: lambda: strict(task, text),
        "parse, strict": lambda: reading.read(text),
        "parse, tolerant": lambda: reading.read(sloppy(text)),
        "schema and constraints": lambda: ladder.received(task, text, "stop"),
        "mend an overlong scene": lambda: ladder.concluded(task, long_draft, narrator="bench"),
        "fill a missing scene offline": lambda: ladder.concluded(task, short_draft, narrator="bench"),
        "tell it all offline": lambda: tell(task),
        "terms of a scene, none": lambda: list(text_breaches("scene", scene, task.prompt, bounds[0])),
        f"terms of a scene, {MANY_TERMS}": lambda: list(text_breaches("scene", scene, task.prompt, bounds[MANY_TERMS])),
        "facts of a scene": lambda: list(contradictions(scene, task.bounds.facts)),
        "leaks of a scene": lambda: leaked(scene, task.bounds.instructions),
        "the request, marks and all": lambda: chat.request_body(PROFILES["other"], task, task.schema),
        f"release, streamed in {heard} pieces": lambda: released(task, text),
    }


def micros_of(work: Callable[[], Any], rounds: int) -> float:
    """The least microseconds that one go took, over the rounds."""
    work()
    least = float("inf")
    for _ in range(rounds):
        begun, count = time.perf_counter(), 0
        while (took := time.perf_counter() - begun) < AT_LEAST_S:
            work()
            count += 1
        least = min(least, took / count)
    return least * 1e6


async def whole_turn_micros(rounds: int, language: str) -> float:
    """The least microseconds of a whole offline turn in memory: rules, telling, answer and all."""
    runtime = await opened(Offline())
    least = float("inf")
    for number in range(max(rounds, 3) * 4):
        session = f"s{number}"
        await play(
            runtime, Invoke(session_id=session, event="INIT", run_seed="bench", constraints={"language": language})
        )
        begun = time.perf_counter()
        await play(runtime, Invoke(session_id=session, selected_option_id=1))
        least = min(least, time.perf_counter() - begun)
    return least * 1e6


def measure(rounds: int, language: str) -> list[Row]:
    """Every rung, the strict path first."""
    task = asyncio.run(caught(language))
    found = {name: micros_of(work, rounds) for name, work in rungs(task).items()}
    found["a whole turn, offline"] = asyncio.run(whole_turn_micros(rounds, language))
    return [Row(name, round(micros, 1), round(micros / found[STRICT], 3)) for name, micros in found.items()]


def main() -> None:
    """Measure, print the table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each rung is measured")
    parser.add_argument("--language", choices=("zh", "en"), default="zh")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    asked = parser.parse_args()
    rows = measure(asked.rounds, asked.language)
    print(f"{'rung':38}{'µs a turn':>11}{'of strict':>11}")
    for row in rows:
        print(f"{row.rung:38}{row.micros:>11,.0f}{row.ratio:>11.2f}")
    if asked.json:
        figures = {
            "language": asked.language,
            "rungs": {row.rung: {"micros": row.micros, "ratio": row.ratio} for row in rows},
        }
        asked.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
