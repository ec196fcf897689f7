"""Who may ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from running import FORM, Running, make_form

from trt_facefusion.errors import BadInputError
from trt_facefusion.serving.token import VARIABLE, BearerToken, read_token

Start = Callable[..., Running]
SECRET = "a-token-for-tests-only"


def test_without_the_token_nothing_is_swapped_nor_told(
    start: Start, photos: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    running = start(token=BearerToken(SECRET))
    with caplog.at_level("INFO"):
        for authorization in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {SECRET}"}):
            reply = running.swap([("target", photos[0])], **authorization)
            assert reply.status == 401 and reply.headers["WWW-Authenticate"] == "Bearer"
            assert running.get("/metrics", **authorization).status == 401
            assert running.get("/v2/models/swap", **authorization).status == 401
            assert "engines" not in running.get("/readyz", **authorization).json
        right = {"Authorization": f"Bearer {SECRET}"}
        assert running.swap([("target", photos[0])], **right).status == 200
        assert running.get("/readyz", **right).json["engines"]
        assert running.get("/healthz").status == running.get("/").status == 200
    assert SECRET not in caplog.text and SECRET not in str([vars(record) for record in caplog.records])
    assert not running.engines.requests[1:]


def test_pages_of_other_sites_may_not_ask(plain: Running, photos: list[bytes]) -> None:
    own = f"http://127.0.0.1:{plain.port}"
    for origin, status in ((own, 200), ("https://elsewhere.example", 403), ("null", 403)):
        assert plain.swap([("target", photos[0])], Origin=origin).status == status
    named = plain.swap([("target", photos[0])], Origin="https://swap.example", X_Forwarded_Host="swap.example")
    assert named.status == 200


def test_a_name_that_was_bound_to_this_machine_is_no_way_in(plain: Running, start: Start, photos: list[bytes]) -> None:
    body = make_form([("target", photos[0])])
    for host, status in (("localhost:80", 200), ("[::1]", 200), ("rebound.example", 403), ("[", 403)):
        assert plain.ask("POST", "/v1/swap", body, Content_Type=FORM, Host=host).status == status
    allowed = start(hosts=["swap.example"])
    assert allowed.ask("POST", "/v1/swap", body, Content_Type=FORM, Host="swap.example").status == 200


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET + "\n")
    token = read_token(file, {})
    assert token is not None
    token.require(f"bearer {SECRET}".encode())
    assert read_token(None, {VARIABLE: SECRET}) is not None and read_token(None, {}) is None
    assert SECRET not in repr(vars(token))
    for bad in ("short", "with a space in between", "umläuteumläuteumläute"):
        file.write_text(bad)
        with pytest.raises(BadInputError) as caught:
            read_token(file, {})
        assert bad not in str(caught.value)
