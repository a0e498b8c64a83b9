"""The differential fuzzer: programs that once failed, some new ones, and the machinery itself."""

import json
import logging
import random
import time

import pytest
from fuzz import kinds, operations, runs, world
from support import WAYS

assert kinds
STANDARD = WAYS["stdlib"].new_loop
KEPT = sorted(runs.CORPUS.glob("*.json"))


@pytest.fixture(autouse=True)
def quiet_logs():
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def compare(way, program):
    return world.run(way.new_loop, program, world.run(STANDARD, program))["complaints"]


@pytest.mark.ours
@pytest.mark.parametrize("path", KEPT, ids=[path.stem for path in KEPT])
@pytest.mark.parametrize("writes", ["auto", "turn"])
def test_what_once_failed(way, path, writes, monkeypatch):
    monkeypatch.setenv("FLEXSC_WRITES", writes)
    program = runs.load(path)
    complaints = compare(way, program) and compare(way, program)  # twice: the machine may have been busy elsewhere
    assert not complaints


@pytest.mark.ours
@pytest.mark.timeout(900)
def test_new_programs(way, seed, soak):
    """`python -m tests.fuzz` runs many more, in processes of their own, and makes those that fail smaller."""
    if not soak:
        pytest.skip("only with --soak")
    end = time.monotonic() + 150
    while time.monotonic() < end:
        program = operations.program(seed)
        complaints = compare(way, program)
        if complaints and compare(way, program):  # twice: the machine may have been busy elsewhere
            pytest.fail(f"python -m tests.fuzz --way {way.name} --count 1 --seed {seed}\n" + "\n".join(complaints))
        seed += 1


# ---- the machinery


def test_programs_follow_from_their_seed():
    assert json.dumps(operations.program(3)) == json.dumps(operations.program(3)) != json.dumps(operations.program(4))


def test_each_operation_is_chosen_sometimes():
    seen = {name for seed in range(3000) for step in operations.program(seed) for name, _, _ in step}
    assert seen == {*operations.TABLE, "turns"}


def test_the_standard_loop_does_what_it_does():
    for seed in range(20):
        program = operations.program(seed)
        expected = world.run(STANDARD, program)
        assert world.run(STANDARD, program, expected)["complaints"] == []


STREAM = {"how": "unix", "small": False, "way": "client", "buffered": False, "keep_open": True, "start": ""}
OPEN = ("stream.open", 0, {**STREAM, "reaction": ""})
DATA = ("stream.peer_send", 0, {"size": 10})


def test_another_view_is_a_complaint():
    program = [[OPEN], [DATA]]
    expected = world.run(STANDARD, program)
    assert expected["views"][1]["0"]["received"] == 10
    expected["views"][1]["0"]["received"] = 11
    (complaint,) = world.run(STANDARD, program, expected, patience=0.05)["complaints"]
    assert complaint == "step 1: Plain 0/received: 10, and on the standard loop 11"


def test_what_may_differ_does():
    assert world.same({"a": [1, world.ANY]}, {"a": [1, 2]})
    assert not world.same({"a": [1, 2]}, {"a": [1]})
    assert not world.same({"a": 1}, {"b": 1})


@pytest.mark.parametrize("wrong", [b"\0", b"\0\0\0"])
def test_bytes_out_of_order_are_a_complaint(wrong):
    from fuzz.peers import Checker, piece

    complaints = []
    check = Checker(5, complaints.append)
    check(piece(5, 0, 1000))
    check(piece(5, 1000, 70_000))
    assert not complaints
    check(wrong)
    assert complaints == ["stream 5: bytes lost, twice or out of order at 71000"]


def test_a_program_is_made_smaller():
    chance = random.Random(1)
    program = [[("turns", 0, {"count": number})] * chance.randrange(1, 4) for number in range(30)]
    wanted = {3, 17}

    def fails(candidate):
        return wanted <= {arguments["count"] for step in candidate for _, _, arguments in step}

    assert [step[0][2]["count"] for step in runs.shrink(program, fails, budget=1000)] == [3, 17]
    assert len(runs.until_it_fails(program, "step 4: anything")) == 5


def test_programs_are_kept(tmp_path):
    program = operations.program(7)
    runs.dump(tmp_path / "x.json", program, complaint="it differs")
    assert json.dumps(runs.load(tmp_path / "x.json")) == json.dumps(program)
