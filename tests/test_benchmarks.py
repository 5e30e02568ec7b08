"""The benchmarks run, and print what they promise. What they measure is not asserted: machines are shared."""

from __future__ import annotations

import json
import subprocess
import sys
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
