"""Learning rates against the recipes that they are for."""

from __future__ import annotations

import itertools
import math

import pytest

from passl.errors import ConfigError
from passl.optim import SCHEDULES
from passl.optim.schedules import build_schedule

# What each one needs beside what all have.
NEEDED = {
    "Constant": {},
    "Cosine": {},
    "Linear": {},
    "MultiStep": {"milestones": [2, 3]},
    "Polynomial": {"power": 2},
    "Step": {"decay_epochs": 2},
}


def half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def test_every_schedule_is_tested():
    assert set(NEEDED) == set(SCHEDULES.names())


def test_cosine():
    """facebookresearch/convit's: 1e-3 at 1024, five epochs of warm-up from 1e-6, 1e-5 at the end of
    300.
    """
    section = {"name": "Cosine", "warmup_epochs": 5, "warmup_lr": 1e-6, "min_lr": 1e-5}
    schedule = build_schedule(section, 1e-3, 1251, 300)
    assert schedule(0) == pytest.approx(1e-6)
    assert schedule(1251 * 5 // 2) == pytest.approx((1e-6 + 1e-3) / 2, rel=1e-3)
    for epoch in (5, 150, 299):
        assert schedule(1251 * epoch) == pytest.approx(half_cosine(1e-3, 1e-5, epoch / 300))
    assert schedule(1251 * 300) == pytest.approx(1e-5)
    assert schedule(1251 * 400) == pytest.approx(1e-5)  # it does not rise again
    rates = [schedule(step) for step in range(0, 1251 * 300, 500)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_cosine_after_warmup():
    """MindCV's convit_tiny_gpu: warm-up of 10 epochs from 0, a cosine of 200, and 90 at its end."""
    section = {
        "name": "Cosine",
        "warmup_epochs": 10,
        "warmup_lr": 0.0,
        "min_lr": 1e-5,
        "decay_epochs": 200,
        "warmup_prefix": True,
    }
    schedule = build_schedule(section, 5e-4, 1251, 300)
    assert schedule(0) == 0
    assert schedule(1251 * 5) == pytest.approx(2.5e-4)
    for epoch in (10, 60, 110, 209):
        expected = half_cosine(5e-4, 1e-5, (epoch - 10) / 200)
        assert schedule(1251 * epoch) == pytest.approx(expected)
    for epoch in (210, 250, 300):
        assert schedule(1251 * epoch) == pytest.approx(1e-5)


def test_cosine_after_warmup_takes_the_remaining_epochs():
    """MindCV's 5 + 295 need not be spelled out."""
    section = {"name": "Cosine", "warmup_epochs": 5, "min_lr": 1e-6, "warmup_prefix": True}
    schedules = [
        build_schedule({**section, **more}, 7.2e-4, 7, 300) for more in ({}, {"decay_epochs": 295})
    ]
    for step in range(0, 2100, 13):
        assert schedules[0](step) == schedules[1](step)
    assert schedules[0](7 * 5) == pytest.approx(7.2e-4)
    assert schedules[0](7 * 300) == pytest.approx(1e-6)


def test_cosine_that_ends_early():
    schedule = build_schedule(
        {"name": "Cosine", "warmup_epochs": 1, "decay_epochs": 4, "min_lr": 0.0}, 1.0, 10, 8
    )
    assert schedule(20) == pytest.approx(0.5)
    assert schedule(40) == schedule(79) == 0


def test_cosine_per_epoch():
    """The rate of an epoch's first step, for all its steps; in the warm-up too."""
    options = {"name": "Cosine", "warmup_epochs": 2, "min_lr": 1e-3}
    by_step, by_epoch = (
        build_schedule({**options, "per_epoch": per_epoch}, 1.0, 10, 6)
        for per_epoch in (False, True)
    )
    for step in range(60):
        assert by_epoch(step) == by_step(step // 10 * 10)
    assert len({by_epoch(step) for step in range(60)}) == 6


def test_linear():
    schedule = build_schedule({"name": "Linear", "min_lr": 0.2}, 1.0, 10, 4)
    assert [schedule(step) for step in (0, 10, 20, 40, 50)] == pytest.approx(
        [1, 0.8, 0.6, 0.2, 0.2]
    )


def test_polynomial():
    schedule = build_schedule({"name": "Polynomial", "power": 0.9, "min_lr": 0.1}, 1.0, 10, 4)
    for step in (0, 7, 20, 39):
        assert schedule(step) == pytest.approx(0.1 + 0.9 * (1 - step / 40) ** 0.9)
    assert schedule(40) == pytest.approx(0.1)


def test_step():
    schedule = build_schedule({"name": "Step", "decay_epochs": 2.5, "gamma": 0.5}, 1.0, 10, 8)
    assert [schedule(step) for step in (0, 24, 25, 49, 50, 75)] == [1, 1, 0.5, 0.5, 0.25, 0.125]


def test_multi_step():
    """ResNet's 0.1 at epochs 30, 60 and 80, from the first step of each."""
    section = {"name": "MultiStep", "milestones": [30, 60, 80]}
    schedule = build_schedule(section, 0.1, 100, 90)
    rates = [schedule(step) for step in (0, 2999, 3000, 5999, 6000, 7999, 8000, 8999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])


def test_constant():
    schedule = build_schedule(
        {"name": "Constant", "warmup_epochs": 1, "warmup_lr": 0.0}, 0.1, 10, 3
    )
    assert [schedule(step) for step in (0, 5, 10, 29)] == pytest.approx([0, 0.05, 0.1, 0.1])


@pytest.mark.parametrize("name", NEEDED)
def test_warmup_is_linear(name):
    section = {"name": name, "warmup_epochs": 1.5, "warmup_lr": 0.1, **NEEDED[name]}
    schedule = build_schedule(section, 0.7, 10, 4)
    for step in range(15):
        assert schedule(step) == pytest.approx(0.1 + 0.6 * step / 15)


@pytest.mark.parametrize("name", NEEDED)
def test_cooldown_keeps_the_last_rate(name):
    """The schedule of the shorter run, whose end stays."""
    section = {"name": name, "warmup_epochs": 1, **NEEDED[name]}
    short = build_schedule(section, 0.7, 10, 4)
    long = build_schedule({**section, "cooldown_epochs": 3}, 0.7, 10, 7)
    assert [long(step) for step in range(41)] == [short(step) for step in range(41)]
    assert {long(step) for step in range(40, 80)} == {short(40)}


@pytest.mark.parametrize("name", NEEDED)
def test_rate_never_rises_to_min_lr_or_warmup_lr(name):
    section = {"name": name, "warmup_epochs": 1, "warmup_lr": 1e-6, **NEEDED[name]}
    if "min_lr" in SCHEDULES.options(name):
        section["min_lr"] = 1e-5
    schedule = build_schedule(section, 5e-7, 10, 3)
    assert all(schedule(step) <= 5e-7 for step in range(31))
    assert [schedule(step) for step in range(10)] == [5e-7] * 10


ENDS_AT_MIN_LR = [
    {"name": "Cosine"},
    {"name": "Cosine", "warmup_prefix": True},
    {"name": "Linear"},
    {"name": "Polynomial", "power": 2},
    {"name": "Polynomial", "power": 0.5},
]


@pytest.mark.parametrize(
    "section",
    [
        *ENDS_AT_MIN_LR,
        {"name": "Cosine", "per_epoch": True},
        {"name": "Constant"},
        {"name": "MultiStep", "milestones": []},
        {"name": "MultiStep", "milestones": [0.1]},
        {"name": "Step", "decay_epochs": 0.1},
    ],
    ids=str,
)
def test_short_runs(section):
    """Every schedule of one to three epochs of one to four steps, with every warm-up and cool-down
    that fits, also where they leave no step between them: the rate lies between the ends, and is at
    the lower one from the end of the schedule on.
    """
    lowest, lr = 0.01, 0.7
    ends = section in ENDS_AT_MIN_LR
    if "min_lr" in SCHEDULES.options(section["name"]):
        section = {**section, "min_lr": lowest}
    parts = (0, 0.1, 0.25, 0.5, 0.9, 1, 1.5, 2, 2.9, 3)
    tried = 0
    for epochs, steps, warmup, cooldown in itertools.product((1, 2, 3), (1, 2, 3, 4), parts, parts):
        if cooldown >= epochs or warmup > epochs - cooldown:
            continue
        last_milestone = max([*section.get("milestones", []), section.get("decay_epochs", 0)])
        if last_milestone > epochs - cooldown:
            continue
        options = {"warmup_epochs": warmup, "warmup_lr": 0.02, "cooldown_epochs": cooldown}
        schedule = build_schedule({**section, **options}, lr, steps, epochs)
        rates = [schedule(step) for step in range(epochs * steps + 3)]
        case = (epochs, steps, warmup, cooldown, rates)
        assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates), case  # also no nan
        end = max(round((epochs - cooldown) * steps), 1)
        assert len(set(rates[end:])) == 1 or section.get("per_epoch"), case
        if ends:
            assert min(rates) >= lowest * (1 - 1e-12), case
            assert rates[end] == pytest.approx(lowest), case
        tried += 1
    assert tried > 100


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"name": "Cosine", "warmup_epochs": 5},
            "warmup_epochs 5 must lie between 0 and the 3 epoc",
        ),
        (
            {"name": "Constant", "warmup_epochs": -1},
            "warmup_epochs -1 must lie between 0 and the 3",
        ),
        (
            {"name": "Constant", "cooldown_epochs": 3},
            "cooldown_epochs 3 must be at least 0 and less",
        ),
        (
            {"name": "Linear", "warmup_epochs": 2, "cooldown_epochs": 2},
            "warmup_epochs 2 must lie between 0 and the 3 epochs of the run minus 2 of cooldown",
        ),
        (
            {"name": "Linear", "warmup_lr": -1e-6},
            "warmup_lr: must be a number of at least 0",
        ),
        (
            {"name": "Linear", "min_lr": -1e-6},
            "min_lr: must be a number of at least 0",
        ),
        ({"name": "Polynomial", "power": 0}, "power: must be a number above 0"),
        ({"name": "Polynomial"}, "power is missing"),
        ({"name": "Step", "decay_epochs": 0}, "decay_epochs 0 must be above 0 and at most 3"),
        (
            {"name": "Step", "decay_epochs": 1, "gamma": 0},
            "gamma: must be a number above 0 and at most 1",
        ),
        ({"name": "MultiStep", "milestones": [2, 1]}, r"milestones \[2, 1\] must ascend"),
        ({"name": "MultiStep", "milestones": [1, 4]}, r"milestones \[1, 4\] must .* at most 3"),
        (
            {"name": "Cosine", "warmup_epochs": 1, "decay_epochs": 4},
            "decay_epochs 4 ends the decay at epoch 4; it must be above 0 and end it between 1",
        ),
        (
            {"name": "Cosine", "warmup_epochs": 1, "decay_epochs": 3, "warmup_prefix": True},
            "decay_epochs 3 ends the decay at epoch 4",
        ),
        (
            {"name": "Cosine", "warmup_epochs": 2, "decay_epochs": 1},
            "decay_epochs 1 ends the decay",
        ),
        ({"name": "Cosine", "warmup_epochs": 0, "decay_epochs": 0}, "decay_epochs 0 .* above 0"),
    ],
)
def test_refusals(section, message):
    with pytest.raises(ConfigError, match=message):
        build_schedule(section, 0.1, 10, 3)
