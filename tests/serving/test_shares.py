"""Who takes part, and the words of a rollout."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_facefusion.errors import BadInputError
from trt_facefusion.serving.engines.shares import (
    CanarySpec,
    Schedule,
    parse_canary,
    parse_schedule,
    parse_share,
    takes_part,
    write_share,
)
from trt_facefusion.types import Precision


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_share_of_requests_takes_part(share: float) -> None:
    part = sum(takes_part(f"request-{number}", "canary abc", share) for number in range(20_000))
    deviation = (20_000 * share * (1 - share)) ** 0.5
    assert abs(part - 20_000 * share) < 4 * deviation


def test_two_salts_draw_two_shares() -> None:
    requests = [f"{number}" for number in range(20_000)]
    both = sum(takes_part(r, "canary a", 0.5) and takes_part(r, "shadow a", 0.5) for r in requests)
    assert abs(both - 5_000) < 4 * (20_000 * 0.25 * 0.75) ** 0.5


@given(st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_who_sees_it_goes_on_seeing_it_when_the_share_grows(request_id: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert takes_part(request_id, "x", small) <= takes_part(request_id, "x", large)
    assert not takes_part(request_id, "x", 0.0) and takes_part(request_id, "x", 1.0)
    assert takes_part(request_id, "x", small) == takes_part(request_id, "x", small)


def test_what_is_asked_for_is_read() -> None:
    assert parse_canary("int8=5%") == CanarySpec(Precision.INT8, 0.05)
    assert parse_canary("engines/swap/int8-new=0.5%") == CanarySpec(Path("engines/swap/int8-new"), 0.005)
    assert parse_canary("a=b/c=0%") == CanarySpec(Path("a=b/c"), 0.0)
    assert parse_share("100%") == 1.0 and [write_share(share) for share in (0.05, 0.005, 1.0)] == ["5%", "0.5%", "100%"]
    assert parse_schedule(None, 0.05) == Schedule()
    assert parse_schedule("5%,25%,100%:1000", 0.05) == Schedule((0.25, 1.0), comparisons=1000)
    assert parse_schedule("25%, 100% : 30m", 0.05) == Schedule((0.25, 1.0), seconds=1800.0)


@pytest.mark.parametrize(
    "text", ["int8", "int8=", "int8=5", "=5%", "int8=101%", "int8=-1%", "int8=5%%", "int8=1e1%", ""]
)
def test_a_canary_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(BadInputError) as caught:
        parse_canary(text)
    assert "5%" in caught.value.remedy


@pytest.mark.parametrize(
    "text", ["", "25%", "25%:", ":5", "25%:0", "25%:5d", "25%,25%:5", "50%,25%:5", "5%:9", "4%:9", "x:9"]
)
def test_a_schedule_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(BadInputError):
        parse_schedule(text, 0.05)


@given(st.text(alphabet="int8=%.5,:hms0 /\x00é", max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_canary, parse_share, lambda words: parse_schedule(words, 0.05)):
        with suppress(BadInputError):
            parse(text)
