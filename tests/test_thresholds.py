"""edgewise.yaml, `test`: what is asked of a machine's tests, and every fault at its place."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import DesignError
from server import project_file
from server.project_file import Asked
from server.settings import PROJECT_FILE

WHOLE = """
test:
  coverage: {edges: 100, guards: 95.5}
  mutation: 90
  machines:
    lantern:
      coverage: {guards: 80, endings: 100}
    mine:
      coverage: 70
      mutation: 0
"""


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    """A project of two machines whose file says this."""

    def made(text: str) -> Path:
        (tmp_path / "machines").mkdir(exist_ok=True)
        for name in ("lantern", "mine"):
            (tmp_path / "machines" / f"{name}.yaml").write_text(f"machine: {name}\n", encoding="utf-8")
        (tmp_path / PROJECT_FILE).write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
        return tmp_path

    return made


def test_a_machines_own_thresholds_stand_over_those_for_all(project: Callable[[str], Path]) -> None:
    folder = project(WHOLE)

    assert project_file.thresholds_of(folder, "another") == Asked({"edges": 100.0, "guards": 95.5}, 90.0)
    assert project_file.thresholds_of(folder, "lantern") == Asked(
        {"edges": 100.0, "guards": 80.0, "endings": 100.0}, 90.0
    )


def test_a_number_alone_is_for_edges_guards_and_endings(project: Callable[[str], Path]) -> None:
    own = project_file.thresholds_of(project(WHOLE), "mine")

    assert own == Asked({"edges": 70.0, "guards": 70.0, "endings": 70.0}, 0.0)


def test_nothing_is_asked_where_nothing_is_said(project: Callable[[str], Path], tmp_path: Path) -> None:
    assert project_file.thresholds_of(tmp_path / "nowhere", "mine") == Asked()
    assert project_file.thresholds_of(project("providers: [{profile: ollama}]"), "mine") == Asked()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test:\n  coverage: {edge: 100}", "edgewise.yaml:2:14 E101 no key 'edge' here. Did you mean 'edges'?"),
        ("test:\n  coverage: {edges: 101}", "edgewise.yaml:2:21 E110 'edges' is too large: at most 100"),
        ("test:\n  coverage: 120", "edgewise.yaml:2:13 E110 'coverage' is too large: at most 100"),
        ("test:\n  mutation: -1", "edgewise.yaml:2:13 E110 'mutation' is too small: at least 0"),
        ("test:\n  mutation: high", "edgewise.yaml:2:13 E105 'mutation' is a number"),
        ("test:\n  mutations: 90", "edgewise.yaml:2:3 E101 no key 'mutations' here. Did you mean 'mutation'?"),
        ("test: [1]", "edgewise.yaml:1:7 E105 'test' is a map (key: value)"),
        ("test:\n  machines: {lanten: {}}", "edgewise.yaml:2:14 E101 no machine 'lanten'. Did you mean 'lantern'?"),
        ("test:\n  machines: {灯: {}}", "edgewise.yaml:2:14 E101 no machine '灯'. There are: lantern, mine"),
        ("test:\n  machines: {mine: {machines: {}}}", "edgewise.yaml:2:21 E101 no key 'machines' here."),
        ("test:\n  machines: [mine]", "edgewise.yaml:2:13 E105 'machines' is a map (key: value)"),
    ],
)  # fmt: skip
def test_a_fault_is_told_at_its_place_with_the_mend(project: Callable[[str], Path], text: str, expected: str) -> None:
    folder = project(text)

    (told,) = map(str, project_file.findings_of(folder))

    assert told.startswith(expected)
    with pytest.raises(DesignError):
        project_file.thresholds_of(folder, "mine")
