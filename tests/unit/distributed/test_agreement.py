"""What the ranks compare, and what an error about a difference names."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from passl.distributed import agreement
from passl.distributed.agreement import agree, agree_on_run
from passl.distributed.ranks import Ranks
from passl.errors import ConfigError
from passl.utils.config import get_config


class Recorded(Ranks):
    """Rank 1 of two; rank 0 has the facts `first`."""

    first: list[str]

    def wait(self) -> None:
        """There is nobody."""

    def gather_texts(self, texts):
        return [self.first, list(texts)]


class Recording(Recorded):
    def gather_texts(self, texts):
        Recorded.first = ["host0", texts[1]]
        return [list(texts), list(texts)]


DATA = {"train": {"samples": 10, "labels": "ab"}}


def run(config, *overrides, resume=None, data=DATA, kind=Recorded):
    agree_on_run(kind(1, 2), get_config(config, overrides), resume, data, {})


@pytest.fixture
def config(tiny_config):
    path = tiny_config()
    run(path, kind=Recording)
    return path


def test_one_process_agrees():
    agree(Ranks(), {"one": 1}, "")


@pytest.mark.parametrize(
    ("overrides", "options", "difference"),
    [
        (["optimizer.lr=0.5"], {}, "optimizer.lr is 0.5 instead of 0.002"),
        (
            ["dataloader.train.sampler.batch_size=7"],
            {},
            "dataloader.train.sampler.batch_size is 7 instead of 128",
        ),
        (["ema.decay=0.9"], {}, "ema.decay is 0.9 instead of unset"),
        ([], {"resume": "auto"}, "--resume is 'auto' instead of None"),
        (
            [],
            {"data": {"train": {"samples": 9, "labels": "ab"}}},
            "samples of the train data is 9 instead of 10",
        ),
    ],
)
def test_a_difference_names_rank_host_and_values(config, overrides, options, difference):
    with pytest.raises(ConfigError) as caught:
        run(config, *overrides, **options)
    assert "rank 1 on " in str(caught.value)
    assert "from rank 0 on host0: " in str(caught.value)
    assert difference in str(caught.value)
    assert ", " not in str(caught.value).split(difference)[1].split(". ")[0]  # nothing else differs


def test_paths_and_loader_options_may_differ_between_hosts(config):
    run(config, "dataloader.train.loader.num_workers=3", "dataloader.val.dataset.dataroot=/there")


def test_only_the_first_differences_are_shown():
    Recorded.first = ["host0", "{}"]
    with pytest.raises(ConfigError, match="e is 1 instead of .* and 21 more"):
        agree(Recorded(1, 2), {letter: 1 for letter in "abcdefghijklmnopqrstuvwxyz"}, "")


class Meeting:
    """Ranks in threads, which meet in `gather_texts`."""

    def __init__(self, world: int):
        self.barrier = Barrier(world, timeout=20)
        self.texts: list = [None] * world

    def rank(self, rank: int) -> Ranks:
        meeting = self

        class One(Ranks):
            def wait(self) -> None:
                """They meet when they gather."""

            def gather_texts(self, texts):
                meeting.barrier.wait()
                meeting.texts[rank] = list(texts)
                meeting.barrier.wait()
                return list(meeting.texts)

        return One(rank, len(self.texts))


NAMES = [f"cat/{number}.png" for number in range(10)]


@pytest.mark.parametrize(
    ("lists", "named"),
    [
        ([NAMES, [*NAMES[:7], "dog/7.png", *NAMES[8:]]], "8 .*'dog/7.png' on rank 1, 'cat/7.png' "),
        ([NAMES, NAMES, NAMES[1:]], "1 .*'cat/1.png' on rank 2, 'cat/0.png' on rank 0"),
        ([NAMES, NAMES[:9]], "10 .*none on rank 1, 'cat/9.png' on rank 0"),
        ([NAMES[:6], NAMES], "7 .*'cat/6.png' on rank 1, none on rank 0"),
        ([[], NAMES], "1 .*'cat/0.png' on rank 1, none on rank 0"),
    ],
)
def test_the_first_item_that_differs_is_named(monkeypatch, lists, named):
    """To all ranks, of lists that are compared in parts."""
    monkeypatch.setattr(agreement, "_PART", 3)
    meeting = Meeting(len(lists))

    def refusal(rank: int) -> str:
        facts = {"seed": 0, "labels": 1, "names": hash(tuple(lists[rank]))}
        made = {"labels": lambda: pytest.fail("they are the same"), "names": lambda: lists[rank]}
        with pytest.raises(ConfigError) as caught:
            agree(meeting.rank(rank), facts, "", made)
        return str(caught.value)

    with ThreadPoolExecutor(len(lists)) as pool:
        refusals = set(pool.map(refusal, range(len(lists))))
    assert len(refusals) == 1
    assert re.search(f"number {named}", refusals.pop())
