"""When an engine is taken out, and when it is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.serving.engines.health import EngineHealth, Health, HealthRules, PictureOutcome

SOUND, BROKEN, DISPUTED = PictureOutcome.SOUND, PictureOutcome.BROKEN, PictureOutcome.DISPUTED
RULES = HealthRules(window=20, least=5, most_broken=0.2, first_retry_s=2.0, longest_retry_s=30.0)


def test_a_single_broken_picture_takes_no_engine_out() -> None:
    health = EngineHealth(RULES)
    assert health.record([BROKEN]) is None
    assert health.record([SOUND] * 4) is None


def test_a_share_of_broken_pictures_does() -> None:
    reason = EngineHealth(RULES).record([SOUND, BROKEN, SOUND, BROKEN, SOUND])
    assert reason == "2 of its last 5 pictures were broken"


def test_faces_that_no_engine_can_do_speak_against_none_of_them() -> None:
    health = EngineHealth(RULES)
    assert health.record([SOUND]) is None
    assert health.record([DISPUTED] * 19) is None and not health.is_suspect
    assert health.record([DISPUTED]) is None
    assert health.is_suspect, "by now there is no sound picture left to say that it works"
    health.clear_suspicion()
    assert not health.is_suspect


def test_what_counted_before_it_went_out_counts_no_more() -> None:
    health = EngineHealth(RULES)
    health.record([BROKEN] * 4)
    health.take_out("it raised", 0.0)
    assert health.record([BROKEN] * 20) is None
    health.begin_probe()
    health.bring_back()
    assert health.record([BROKEN] * 4) is None


def test_the_back_off_doubles_up_to_a_limit_and_a_sound_window_forgets_it() -> None:
    health, now, waits = EngineHealth(RULES), 0.0, []
    for _ in range(6):
        health.take_out("it raised", now)
        waits.append(health.count_wait(now))
        now += waits[-1] or 0
        assert not health.is_due(now - 0.01) and health.is_due(now)
        health.begin_probe()
        assert not health.is_due(now)
    assert waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    health.bring_back()
    health.record([SOUND] * 20)
    health.take_out("it raised", now)
    assert health.count_wait(now) == 2.0


@given(st.lists(st.lists(st.sampled_from(PictureOutcome), max_size=8), max_size=30))
def test_it_is_out_exactly_where_the_window_says_so(batches: list[list[PictureOutcome]]) -> None:
    health, recent = EngineHealth(RULES), []
    for batch in batches:
        recent = (recent + batch)[-RULES.window :]
        enough = len(recent) >= RULES.least
        too_many = recent.count(BROKEN) > RULES.most_broken * len(recent)
        reason = health.record(batch)
        assert (reason is not None) == (enough and too_many)
        assert health.is_suspect == (enough and SOUND not in recent)
        if reason is not None:
            health.take_out(reason, 0.0)
            assert health.state is Health.OUT and health.reason == reason
            return
