"""`edgewise init`: what it makes plays, is served and passes `check` at once, and nothing is ever overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import edgewise
from served import Process, Web

from runtime import loader
from server import project_file
from server.scaffold import project_files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project that the command made, and what the command said."""
    folder = tmp_path_factory.mktemp("init") / "my_story"
    ran = edgewise("init", str(folder))
    assert (ran.returncode, ran.stderr) == (0, "")
    return folder, ran.stdout


@pytest.mark.slow
def test_a_new_project_has_everything_that_a_designer_needs(made: tuple[Path, str]):
    folder, _ = made

    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    assert files >= {
        ".gitignore",
        ".env.example",
        "README.md",
        "machines/first_story.yaml",
        "machines/machine.schema.json",
        "prompts/first_story/offline.zh.yaml",
        "prompts/first_story/offline.en.yaml",
        "replays/first_story/across.replay.yaml",
        "edgewise.yaml",
    }
    assert len([file for file in files if file.endswith(".prompty")]) == 6


def test_the_first_line_gives_editors_the_schema(made: tuple[Path, str]):
    folder, _ = made
    first = (folder / "machines/first_story.yaml").read_text(encoding="utf-8").splitlines()[0]

    schema = folder / "machines" / first.removeprefix("# yaml-language-server: $schema=")

    assert json.loads(schema.read_text(encoding="utf-8")) == loader.schema()


def test_a_new_project_has_no_faults_and_no_warnings():
    files = {name: text for name, text in project_files().items() if name.startswith(("machines/first", "prompts/"))}

    assert loader.findings_of(files) == []


@pytest.mark.slow
def test_check_agrees(made: tuple[Path, str]):
    folder, _ = made

    ran = edgewise("check", "--strict", "--project", str(folder))

    assert ran.returncode == 0
    assert ran.stdout.startswith("first_story: no faults, no warnings\n")


@pytest.mark.slow
@pytest.mark.parametrize(("language", "ends"), [("zh", "结局：明天再来"), ("en", "The end: Some other night")])
def test_a_new_project_plays_to_an_end(made: tuple[Path, str], language: str, ends: str):
    folder, _ = made

    ran = edgewise("play", "--project", str(folder), "--language", language, typed="3\n2\n", cwd=folder.parent)

    assert ran.returncode == 0
    assert ends in ran.stdout


@pytest.mark.slow
def test_a_new_project_is_served_from_its_own_folder(made: tuple[Path, str], tmp_path: Path):
    folder, _ = made

    with Process(folder, tmp_path / "journal.duckdb") as process, Web(process.url) as web:
        begun = web.send({"event": {"type": "INIT"}, "constraints": {"language": "en"}})

    assert begun["session"]["machine"] == "first_story"
    assert [option["text"] for option in begun["payload"]["options"]][-1] == "Step aboard"


def test_the_commands_that_init_prints_name_the_project(made: tuple[Path, str]):
    folder, said = made

    printed = [line.partition("  #")[0].strip() for line in said.splitlines() if line.startswith("  ")]

    assert printed == [
        f"edgewise play --project {folder}",
        f"edgewise check --project {folder}",
        f"edgewise test --project {folder}",
        f"edgewise serve --project {folder} --dev",
    ]


@pytest.mark.slow
def test_a_new_project_passes_its_own_tests(made: tuple[Path, str]):
    folder, _ = made

    ran = edgewise("test", "--project", str(folder), "-j", "1")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "first_story  ok     2 passed  2 held" in ran.stdout


def test_what_a_new_project_may_ask_of_its_tests_is_right_once_the_signs_are_taken_away(tmp_path: Path):
    written = project_files()["edgewise.yaml"]
    lines = [line.removeprefix("# ") for line in written.splitlines() if line.startswith(("# test:", "#   "))]
    (tmp_path / "edgewise.yaml").write_text("\n".join(lines), encoding="utf-8")

    asked = project_file.thresholds_of(tmp_path, "first_story")

    assert asked.coverage == {"states": 100, "edges": 100, "guards": 100, "endings": 100}
    assert asked.mutation == 90


@pytest.mark.slow
def test_an_empty_folder_is_as_good_as_a_new_one(tmp_path: Path):
    ran = edgewise("init", str(tmp_path))

    assert ran.returncode == 0
    assert (tmp_path / "machines/first_story.yaml").is_file()


@pytest.mark.slow
def test_what_is_in_the_way_is_named_and_nothing_is_written(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")

    ran = edgewise("init", str(tmp_path))

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"{tmp_path} is not empty: it holds notes.txt. Name a new folder.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_a_file_in_the_way_is_refused(tmp_path: Path):
    (tmp_path / "story").write_text("mine", encoding="utf-8")

    ran = edgewise("init", str(tmp_path / "story"))

    assert ran.returncode == 2
    assert "is a file" in ran.stderr
    assert (tmp_path / "story").read_text(encoding="utf-8") == "mine"


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path):
    (tmp_path / "story").write_text("mine", encoding="utf-8")

    ran = edgewise("init", str(tmp_path / "story" / "inside"))

    assert ran.returncode == 2
    assert "can't be written" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_model_is_sent_no_line_that_says_nothing(made: tuple[Path, str], language: str):
    """Without a rating, forbidden terms, anything carried or a choice, as at the beginning."""
    folder, _ = made

    ran = edgewise("prompts", "--project", str(folder), "first_story", "LANDING", "--language", language)

    lines = [line for line in ran.stdout.splitlines() if not line.startswith("──")]
    assert [line for line in lines if "：。" in line or line.rstrip().endswith((": .", "（必须照此讲述）："))] == []
    assert [line for line in lines if line.startswith(("口袋里", "In the pockets", "分级", "Rating", "玩家选择"))] == []


@pytest.mark.slow
def test_a_chinese_game_shows_what_is_carried_in_chinese(made: tuple[Path, str]):
    folder, _ = made

    ran = edgewise("play", "--project", str(folder), "--language", "zh", "--seed", "demo", typed="1\n1\nq\n")

    assert "铜钱" in ran.stdout
    assert "缆绳" in ran.stdout
    assert "coin" not in ran.stdout
    assert "rope" not in ran.stdout
