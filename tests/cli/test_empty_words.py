"""An empty value is never the current folder: it comes from a variable that is not set."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from workplace import Outcome, Workplace

Command = Callable[[list[str]], Outcome]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--output", ""], "--output is empty"),
        (["--output="], "--output is empty"),
        (["--weights-key", ""], "--weights-key is empty"),
    ],
)
def test_an_empty_option_is_refused_by_name(command: Command, place: Workplace, words: list[str], told: str) -> None:
    outcome = command([*place.options(output=None), *words, "--json"])
    assert outcome.code == 2 and told in outcome.json["error"]["message"]


def test_an_empty_argument_is_refused(command: Command) -> None:
    outcome = command(["inspect", "", "--json"])
    assert outcome.code == 2 and "an argument is empty" in outcome.json["error"]["message"]
