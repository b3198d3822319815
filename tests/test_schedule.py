"""Schedules: published values, torch's one cycle, and shapes without jumps."""
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoclr.config import ConfigError
from isoclr.pretrain.schedule import SCHEDULES, constant, draw_schedules, learning_rate, one_cycle, published_schedule, reciprocal_sqrt, warmup_cosine


@pytest.mark.parametrize("kind", ["reciprocal_sqrt", "cosine"])
def test_published_values(shared_reference, kind):
    settings = json.loads((shared_reference / "schedules.json").read_text())[kind]
    values = settings.pop("values")
    ours = [published_schedule(kind, epoch, **settings) for epoch in range(settings["max_epochs"])]
    assert len(values) >= 60 and ours == pytest.approx(values, rel=1e-6, abs=0)


def test_the_published_jump_is_not_in_ours():
    published = [published_schedule("reciprocal_sqrt", epoch, 100, 1.0, 10, 20) for epoch in range(100)]
    ours = [learning_rate("reciprocal_sqrt", step, 100, 10, 20) for step in range(100)]

    def drop(rates):
        return (rates[79] - rates[80]) / (rates[78] - rates[79])

    assert drop(published) > 5 and drop(ours) < 1.1


@pytest.mark.parametrize("steps, warmup", [(10, 2), (100, 29), (57, 19), (1000, 299)])
def test_one_cycle_is_that_of_torch(steps, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, pct_start=(warmup + 1) / steps, cycle_momentum=False)
    for step in range(steps):
        assert one_cycle(step, steps, warmup) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9), step
        optimizer.step()
        if step + 1 < steps:
            theirs.step()


@pytest.mark.parametrize("steps, warmup", [(10, 0), (100, 10), (7, 6), (1, 0)])
def test_cosine(steps, warmup):
    rates = [warmup_cosine(step, steps, warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates) and rates[warmup] == 1.0
    assert rates[:warmup] == pytest.approx([(step + 1) / (warmup + 1) for step in range(warmup)])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    middle = warmup + (steps - warmup) / 2
    if middle.is_integer():
        assert warmup_cosine(int(middle), steps, warmup) == pytest.approx(0.5)
    assert rates == [learning_rate("cosine", step, steps, warmup) for step in range(steps)]


@pytest.mark.parametrize("kind", SCHEDULES)
@settings(deadline=None)
@given(steps=st.integers(1, 400), warmup_share=st.floats(0, 0.5), cooldown_share=st.floats(0, 0.5))
def test_every_schedule_rises_to_the_peak_and_never_after(kind, steps, warmup_share, cooldown_share):
    warmup, cooldown = min(int(warmup_share * steps), steps - 1), int(cooldown_share * steps)
    rates = [learning_rate(kind, step, steps, warmup, cooldown) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1]) and rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup] == 1.0
    assert 0 <= learning_rate(kind, steps, steps, warmup, cooldown) <= rates[-1]
    assert learning_rate(kind, steps + 5, steps, warmup, cooldown) <= rates[-1]


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("warmup, cooldown", [(100, 200), (100, 0), (300, 700), (500, 1)])
def test_no_schedule_jumps(kind, warmup, cooldown):
    "With a run 64 times as finely divided, the largest change from step to step is 64 times as small: what does not jump."

    def largest_change(finer):
        rates = [learning_rate(kind, step, 1000 * finer, warmup * finer, cooldown * finer) for step in range(1000 * finer + (cooldown > 0))]
        return max(abs(a - b) for a, b in zip(rates, rates[1:]))

    assert largest_change(64) < largest_change(1) / 32


def test_a_longer_run_starts_as_a_shorter_one():
    for schedule in (reciprocal_sqrt, constant):
        assert [schedule(step, 100, 10) for step in range(100)] == [schedule(step, 1000, 10) for step in range(100)]


def test_cool_down_is_linear_and_only_at_the_end():
    with_one, without = ([learning_rate("constant", step, 50, 5, cooldown) for step in range(51)] for cooldown in (10, 0))
    assert with_one[:41] == without[:41] and with_one[40:] == pytest.approx([1 - step / 10 for step in range(11)])


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="no schedule 'cosin'. Did you mean 'cosine'"):
        learning_rate("cosin", 0, 10, 1)
    with pytest.raises(ConfigError, match="warm-up of 8 and a cool-down of 3 steps do not fit in 10 steps"):
        learning_rate("constant", 0, 10, 8, 3)
    with pytest.raises(ConfigError, match="no published schedule 'one_cycle'"):
        published_schedule("one_cycle", 0, 10, 1.0, 1)


@pytest.mark.parametrize("steps", [1, 3, 400, 12345])
def test_drawing(steps):
    warmup, cooldown = steps // 10, steps // 5
    figure = draw_schedules(steps, warmup, cooldown)
    assert [line.name for line in figure.data] == list(SCHEDULES) and len({line.line.dash for line in figure.data}) == len(SCHEDULES)
    for line in figure.data:
        assert len(line.x) < 600 and {0, warmup, steps - 1} <= set(line.x)
        assert [learning_rate(line.name, step, steps, warmup, cooldown) for step in line.x] == list(line.y)
        assert all(math.isfinite(rate) for rate in line.y)
    assert [line.name for line in draw_schedules(10, 1, kinds=["constant"]).data] == ["constant"]
