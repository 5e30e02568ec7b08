"""How soon a player reads: the first sentence of a streamed turn beside the plain answer, in the same run.

    uv run benchmarks/narration.py first-sentence [--turns 5] [--tokens-per-second 40] [--json FILE]

A provider that writes at a model's pace (`edgewise fake-llm`) tells the turns of haunted_house; each
is played twice with the same seed, once as a stream and once plain, in turn, so that both see the
same machine at the same load. The machines are shared and noisy: read the ratio, not the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct

ROOT = Path(__file__).parents[1]
PATIENCE_S = 120.0
NDJSON = "application/x-ndjson"


class Turn(Struct, frozen=True):
    """One turn, told twice: seconds to the first sentence, to the stream's end, and to the plain answer."""

    first_s: float
    stream_s: float
    plain_s: float


@contextmanager
def process(*words: str, **environment: str) -> Iterator[str]:
    """An `edgewise` command that serves, until it says where; its URL. Ended at the end."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("EDGEWISE_", "DEEPSEEK_"))}
    child = subprocess.Popen(
        [sys.executable, "-m", "server", *words], cwd=ROOT, env={**mine, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield _url_of(child)
    finally:
        child.terminate()
        child.communicate(timeout=30)


def _url_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None  # noqa: S101 - it is a pipe
    for line in child.stdout:
        if found := [word for word in line.split() if word.startswith("http://127.0.0.1:")]:
            return found[0].rstrip(".,/")
    raise SystemExit(f"the command ended with {child.wait()}: {child.args}")


@contextmanager
def told_by_a_model(tokens_per_second: float) -> Iterator[str]:
    """A server whose turns are told at a model's pace; its URL."""
    with (
        tempfile.TemporaryDirectory() as folder,
        process("fake-llm", "--port", "0", "--tokens-per-second", str(tokens_per_second), "--project", ".") as provider,
    ):
        variables = {
            "EDGEWISE_NARRATOR": "openai",
            "EDGEWISE_OPENAI_PROFILE": "fake",
            "EDGEWISE_OPENAI_BASE_URL": provider if provider.endswith("/v1") else f"{provider}/v1",
            "EDGEWISE_OPENAI_MODEL": "fake",
            "EDGEWISE_LOG_LEVEL": "warning",
        }
        with process("serve", "--port", "0", "--store", f"duckdb://{folder}/bench.duckdb", **variables) as url:
            yield url


def streamed(http: httpx.Client, body: dict[str, Any]) -> tuple[float, float, dict[str, Any]]:
    """A turn as a stream: seconds to its first text and to its end, and the answer."""
    start, first_s = time.perf_counter(), None
    with http.stream("POST", "/invoke", json=body, headers={"Accept": NDJSON}) as response:
        for line in response.iter_lines():
            event = json.loads(line)
            if event["event"] == "field.delta" and first_s is None:
                first_s = time.perf_counter() - start
            if event["event"] == "turn.committed":
                took = time.perf_counter() - start
                return first_s or took, took, _model_told(event["data"]["data"])
    raise SystemExit("a streamed turn did not end well")


def plain(http: httpx.Client, body: dict[str, Any]) -> float:
    """A turn plain: seconds to its answer."""
    start = time.perf_counter()
    answer = http.post("/invoke", json=body).json()
    took = time.perf_counter() - start
    _model_told(answer["data"])
    return took


def _model_told(data: dict[str, Any]) -> dict[str, Any]:
    meta = data["payload"]["meta"]
    if meta["fallback"] or not meta["ai_generated"]:
        raise SystemExit(f"a turn was not told by the model: {meta}")
    return data


def play(http: httpx.Client, turns: int) -> list[Turn]:
    """The same play twice at once, turn by turn: one session streamed, the other plain."""
    found: list[Turn] = []
    begin = {"event": {"type": "INIT"}, "seed": {"run_seed": "bench"}, "constraints": {"language": "en"}}
    body: dict[str, Any] = begin
    while len(found) < turns:
        first_s, stream_s, data = streamed(http, {**body, "session": {"session_id": f"stream-{os.getpid()}"}})
        plain_s = plain(http, {**body, "session": {"session_id": f"plain-{os.getpid()}"}})
        found.append(Turn(first_s, stream_s, plain_s))
        if data["session"]["ended"]:
            break
        body = {"payload": {"selected_option_id": data["payload"]["options"][0]["id"]}}
    return found


def report(turns: list[Turn], tokens_per_second: float) -> dict[str, Any]:
    """The medians, and the ratio of the first sentence to the plain answer of the same turn."""
    ratios = [turn.first_s / turn.plain_s for turn in turns]
    return {
        "tokens_per_second": tokens_per_second,
        "turns": len(turns),
        **{
            f"{name}_s": statistics.median(getattr(turn, f"{name}_s") for turn in turns)
            for name in ("first", "stream", "plain")
        },
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def print_table(found: dict[str, Any]) -> None:
    """The figures, for people."""
    print(f"{found['turns']} turns, a provider at {found['tokens_per_second']:g} tokens a second, medians")
    for name, about in (("first", "first sentence, streamed"), ("stream", "stream's end"), ("plain", "plain answer")):
        print(f"{about:26}{found[f'{name}_s']:8.2f} s")
    print(f"first / plain = {found['ratio']:.2f}  ({', '.join(f'{each:.2f}' for each in found['ratios'])})")


def first_sentence(given: argparse.Namespace) -> dict[str, Any]:
    """Measure the time to the first sentence, and print it."""
    with told_by_a_model(given.tokens_per_second) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
        found = report(play(http, given.turns), given.tokens_per_second)
    print_table(found)
    return found


def main() -> None:
    """Measure what is asked for, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("first-sentence", help="a streamed turn's first sentence beside the plain answer")
    part.add_argument("--turns", type=int, default=5)
    part.add_argument("--tokens-per-second", type=float, default=40)
    part.add_argument("--json", type=Path, help="write the figures to this file, - for standard output")
    part.set_defaults(measure=first_sentence)
    given = parser.parse_args()
    found = given.measure(given)
    if given.json:
        text = json.dumps(found, indent=2)
        print(text) if str(given.json) == "-" else given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
