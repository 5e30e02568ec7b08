"""The names of replays that are kept: of which machine, and one for one finding."""

from __future__ import annotations

from runtime.bench.failed import bug_name, failed_name
from runtime.bench.replay import Given, Replay, ReplayStep

SHORT, LONG = (ReplayStep(send="A"),), (ReplayStep(send="A"), ReplayStep(send="B", dice={"d": 3}))


def found(name: str, steps: tuple[ReplayStep, ...]) -> Replay:
    return Replay(name=name, given=Given(machine="灯塔"), steps=steps)


def test_a_long_name_keeps_its_beginning_and_is_cut_at_the_end():
    name = bug_name("灯塔", "fault", "edge HALL.走: " + "很长🏮 " * 100, found("x", SHORT))

    assert name.startswith("灯塔-fault-edge-HALL.走")
    assert len(name.encode()) < 255
    assert failed_name("replays/灯塔/" + "a" * 300).startswith("replays-灯塔-aaa")


def test_the_same_steps_to_a_fault_are_kept_once_whatever_their_replay_is_called():
    assert bug_name("m", "fault", "errs", found("a", LONG)) == bug_name("m", "fault", "errs", found("b", LONG))
    assert bug_name("m", "fault", "errs", found("a", LONG)) != bug_name("m", "fault", "errs", found("a", SHORT))
