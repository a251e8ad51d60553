"""Ranks: real gloo processes that meet, agree, share out work, and notice within seconds that one has died."""

import ast
import time

import pytest
import torch
from torchrun import finish, script, start

from monosem.errors import RunError, StoreError
from monosem.ranks import Place, Ranks, joined

ALONE = Place()


def test_alone_every_call_returns_at_once_and_no_group_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined() as ranks:
        assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
        ranks.barrier("here")
        ranks.agree("recipe", {"k": 3})
        assert ranks.broadcast("value", [1]) == [1]
        assert ranks.gather("value", [1]) == [[1]]
        assert ranks.once("made", lambda: 7) == 7
        assert list(ranks.counter("work").numbers(3)) == [0, 1, 2]
        assert ranks.device("cuda:5") == "cuda:5"
        assert not torch.distributed.is_initialized()


def test_what_torchrun_says_is_read() -> None:
    told = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert Place.of(told) == Place(5, 8, 1, 4)
    assert Place.of({}) == ALONE


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE = 'two': expected a number from 1"),
        ({"WORLD_SIZE": "2"}, r"RANK = None: expected a number from 0 to 1; start the ranks with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, r"RANK = '2': expected a number from 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}, r"LOCAL_RANK = '1': expected a number from 0 to 0"),
    ],
)
def test_an_incomplete_environment_is_named(told: dict[str, str], error: str) -> None:
    with pytest.raises(RunError, match=error):
        Place.of(told)


def test_each_rank_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(Place(5, 8, 1, 4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ranks.device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [ranks.device(wanted) for wanted in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    with pytest.raises(RunError, match="device = 'cuda:0' would be shared by 8 ranks"):
        ranks.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RunError, match="4 ranks on a machine with 2 GPUs"):
        ranks.device("auto")


def test_what_rank_0_cannot_make_is_an_error() -> None:
    def fails() -> None:
        raise StoreError("no room")

    with pytest.raises(StoreError, match="no room"):
        Ranks().once("made", fails)


def test_three_ranks_exchange_agree_and_share_out_work() -> None:
    told = finish(
        start(
            script(
                """
                taken = list(ranks.counter("work").numbers(20))
                failed = ""
                def fails():
                    raise StoreError("rank 0 has no room")
                try:
                    ranks.once("made", fails)
                except StoreError as error:
                    failed = str(error)
                ranks.agree("recipe", {"sae": {"k": 32}})
                differ = ""
                try:
                    ranks.agree("recipe", {"sae": {"k": 32 + ranks.rank // 2, "n": 64}})
                except RunError as error:
                    differ = str(error)
                print({
                    "place": (ranks.rank, ranks.world, ranks.first),
                    "taken": taken,
                    "sent": ranks.broadcast("value", {"from": ranks.rank}),
                    "gathered": ranks.gather("value", ranks.rank * 10),
                    "made": ranks.once("made", lambda: f"by {ranks.rank}"),
                    "failed": failed,
                    "differ": differ,
                    "second": ranks.counter("work").add(0),
                })
                """
            ),
            world=3,
        )
    )
    found = [ast.literal_eval(text) for text in told]
    assert [each["place"] for each in found] == [(0, 3, True), (1, 3, False), (2, 3, False)]
    assert sorted(number for each in found for number in each["taken"]) == list(range(20))
    for each in found:
        assert each["sent"] == {"from": 0}
        assert each["gathered"] == [0, 10, 20]
        assert each["made"] == "by 0"
        assert each["failed"] == "rank 0 has no room"
        assert each["differ"].startswith(
            "ranks 0 and 2 differ in recipe: sae.k is 32 and 33; start all ranks with the same"
        )
        assert each["second"] == 0


@pytest.mark.slow
def test_other_code_is_refused_on_every_rank() -> None:
    other = start(script("print('met')"), world=2, changes={1: {"OMP_NUM_THREADS": "2"}})
    for process in other:
        out, complaint = process.communicate(timeout=60)
        assert process.returncode != 0
        assert out == ""
        assert "ranks 0 and 1 differ in code: threads is 1 and 2" in complaint


@pytest.mark.parametrize("dead", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_that_was_killed_is_noticed_at_once(dead: int) -> None:
    processes = start(
        script(
            f"""
            if ranks.rank == {dead}:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                ranks.barrier("the end")
            except RunError as error:
                print(error)
            """
        ),
        world=2,
    )
    begun = time.monotonic()
    out, complaint = processes[1 - dead].communicate(timeout=60)
    assert f"rank {1 - dead} of 2 lost another one at 'the end'" in out, complaint
    assert "give the same command again" in out
    assert time.monotonic() - begun < 18  # the patience is 20 s
    processes[dead].communicate()


@pytest.mark.slow
def test_a_rank_that_hangs_is_not_waited_for_longer_than_was_said() -> None:
    processes = start(
        script(
            """
            if ranks.rank == 1:
                time.sleep(6)
                os._exit(0)
            begun = time.monotonic()
            try:
                ranks.barrier("the end", seconds=1)
            except RunError as error:
                print(error, time.monotonic() - begun < 4)
                os._exit(0)
            """
        ),
        world=2,
    )
    out = finish(processes)[0]
    assert "rank 0 of 2 lost another one at 'the end'" in out
    assert out.strip().endswith("True")
