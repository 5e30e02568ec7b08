"""The benchmarks run, and print what they promise. What they measure is not asserted: machines are shared."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_turns_beside_an_echo_as_a_table_and_as_json(tmp_path):
    figures = tmp_path / "figures.json"
    short = ["--connections", "4", "--seconds", "0.3", "--rounds", "1", "--json", str(figures)]

    run = subprocess.run(
        [sys.executable, "benchmarks/turns.py", *short], cwd=ROOT, capture_output=True, text=True, check=True
    )

    found = json.loads(figures.read_text(encoding="utf-8"))
    assert set(found) == {"connections", "rounds", "turns", "echo", "ratio", "ratios"}
    assert set(found["turns"]) == {"per_second", "p50_ms", "p99_ms", "answers"}
    assert found["turns"]["answers"] > 0
    assert f"turns / echo = {found['ratio']:.2f}" in run.stdout


@pytest.mark.slow
def test_durability_as_tables_and_as_json(tmp_path):
    figures = tmp_path / "figures.json"
    few = ["--crashes", "1", "--races", "2", "--sizes", "200", "--processes", "1"]
    short = [*few, "--warm", "0.1", "--seconds", "0.3"]

    run = subprocess.run(
        [sys.executable, "benchmarks/durability.py", *short, "--connections", "4", "--json", str(figures)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    found = json.loads(figures.read_text(encoding="utf-8"))
    assert {each["store"] for each in found["crashes"]} == {"duckdb", "postgres"}
    for each in found["crashes"] + found["races"]:
        assert (each["lost"], each["doubled"], each["violations"]) == (0, 0, 0)
    assert [each["won_by_one"] for each in found["races"]] == [2] * 6
    (size,) = found["sizes"]
    assert (size["entries"], size["sessions"]) == (200, 2)
    assert size["turns"] > 0
    assert found["processes"][0]["turns"] > 0
    assert [line for line in run.stdout.splitlines() if line in {"Deaths", "Races", "A journal's size", "PostgreSQL"}]


@pytest.mark.slow
def test_a_soak_tells_the_same_figures_first_and_last(tmp_path):
    figures = tmp_path / "figures.json"
    short = ["--soak", "0.005", "--seconds", "0.2", "--connections", "4", "--json", str(figures)]

    subprocess.run([sys.executable, "benchmarks/durability.py", *short], cwd=ROOT, capture_output=True, check=True)

    found = json.loads(figures.read_text(encoding="utf-8"))["soak"]
    assert set(found["first"]) == set(found["last"]) >= {"per_second", "p50_ms", "p99_ms", "memory_mb", "journal_mb"}
    assert found["turns"] > 0


@pytest.mark.slow
def test_the_first_sentence_beside_the_plain_answer(tmp_path):
    figures = tmp_path / "figures.json"
    short = ["--turns", "1", "--tokens-per-second", "2000", "--json", str(figures)]

    run = subprocess.run(
        [sys.executable, "benchmarks/narration.py", "first-sentence", *short],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    found = json.loads(figures.read_text(encoding="utf-8"))
    assert set(found) == {"tokens_per_second", "turns", "first_s", "stream_s", "plain_s", "ratio", "ratios"}
    assert found["turns"] == 1
    assert found["first_s"] <= found["stream_s"]
    assert f"first / plain = {found['ratio']:.2f}" in run.stdout


@pytest.mark.slow
def test_the_pipelines_own_cost_rung_by_rung(tmp_path):
    figures = tmp_path / "figures.json"

    run = subprocess.run(
        [sys.executable, "benchmarks/rungs.py", "--rounds", "1", "--json", str(figures)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    found = json.loads(figures.read_text(encoding="utf-8"))["rungs"]
    strict, *others = found
    assert found[strict]["ratio"] == 1
    assert len(others) >= 10
    assert all(figure["micros"] > 0 for figure in found.values())
    assert [line for line in run.stdout.splitlines() if line.startswith("a whole turn, offline")]


@pytest.mark.slow
def test_turns_by_the_rules_and_told_beside_what_walks_the_same_states(tmp_path):
    figures = tmp_path / "figures.json"
    short = ["ticket_triage", "--seconds", "0.05", "--rounds", "1", "-j", "1", "--json", str(figures)]

    run = subprocess.run(
        [sys.executable, "benchmarks/bench.py", *short], cwd=ROOT, capture_output=True, text=True, check=True
    )

    found = json.loads(figures.read_text(encoding="utf-8"))["machines"]["ticket_triage"]
    kinds = {"rules", "told", "transitions"} | ({"langgraph"} if find_spec("langgraph") else set())
    assert set(found["per_second"]) == set(found["to_rules"]) == kinds
    assert all(each > 0 for each in (*found["per_second"].values(), *found["together"].values()))
    assert found["states"] > 3
    assert ("uv run --with langgraph" in run.stdout) == ("langgraph" not in kinds)


@pytest.mark.slow
def test_a_machine_that_is_not_there_is_refused_before_anything_is_played():
    run = subprocess.run(
        [sys.executable, "benchmarks/bench.py", "haunted"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "there is no machine 'haunted'; there are haunted_house" in run.stderr
    assert run.stdout == ""
