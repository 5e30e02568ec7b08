"""Every version is pinned in pyproject.toml, and no address of an index is written anywhere."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _named(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins() -> dict[str, str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pairs = (line.split("==") for line in settings["tool"]["uv"]["constraint-dependencies"])
    return {_named(name): version.partition(";")[0].strip() for name, version in pairs}


def test_what_is_installed_is_what_is_pinned():
    installed = {_named(each.metadata["Name"]): each.version for each in distributions()}
    pins = _pins()
    not_pinned = {"edgewise", "pip", "setuptools", "uv"}
    ours = {name: version for name, version in installed.items() if name not in not_pinned}
    assert {name: version for name, version in ours.items() if name in pins} == {
        name: pins[name] for name in ours if name in pins
    }
    assert set(ours) - set(pins) == set()


def test_no_index_or_mirror_is_named_and_no_lock_is_tracked():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert "uv.lock" not in tracked
    address = re.compile(r"https?://[\w.-]*(?:pypi|pythonhosted|npmjs|npm|debian)[\w.-]*/", re.IGNORECASE)
    found = [name for name in tracked if name and (ROOT / name).is_file() and address.search(_text(ROOT / name))]
    assert found == []


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
