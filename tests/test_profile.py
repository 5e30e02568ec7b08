"""Profiles: what can't be right is refused, and no key is shown."""

from __future__ import annotations

import pytest
from rich.pretty import pretty_repr

from runtime.narrators.profile import Profile, deepseek

KEY = "sk-this-is-the-secret-key"


def test_the_key_is_in_no_repr() -> None:
    """Neither in Python's nor in rich's, which draws tracebacks with locals."""
    profile = Profile(base_url="https://llm.example", model="any", key=KEY)

    assert KEY not in f"{profile!r} {profile} {pretty_repr(profile)}"
    assert "llm.example" in repr(profile)


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "llm.example/v1"},
        {"base_url": "ftp://llm.example"},
        {"base_url": "http://llm.example:99999/v1"},
        {"base_url": "http://llm.example:port/v1"},
        {"base_url": f"https://user:{KEY}@llm.example"},
        {"base_url": f"https://llm.example/?key={KEY}"},
        {"key": f"{KEY}\n"},
        {"key": f"{KEY}–"},
        {"key": f"Bearer {KEY}"},
    ],
)
def test_a_profile_that_cannot_be_right_is_refused_without_its_key(wrong: dict[str, str]) -> None:
    """A bad header or URL would fail at a player's cost, and quote the key."""
    with pytest.raises(ValueError, match="the narrator's") as refused:
        Profile(**{"base_url": "https://llm.example", "model": "any", **wrong})

    assert KEY not in str(refused.value)


@pytest.mark.parametrize("retired", ["deepseek-chat", "deepseek-reasoner"])
def test_a_retired_model_is_mapped_with_a_warning(retired: str, caplog: pytest.LogCaptureFixture) -> None:
    """Old settings go on working, and say that they are old."""
    profile = deepseek(KEY, model=retired)

    assert profile.model == "deepseek-flash"
    assert retired in caplog.text


def test_deepseek_is_called_at_its_own_address_unless_told() -> None:
    """The base of the environment replaces it."""
    assert deepseek(KEY).host == "api.deepseek.com"
    assert deepseek(KEY, "http://127.0.0.1:8080/v1").host == "127.0.0.1:8080"
