"""The page to try the service, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
from browser import Browser
from running import Running

from trt_facefusion.serving.token import BearerToken

Start = Callable[..., Running]
SECRET = "a-token-for-tests-only"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.fixture
def swapping(start: Start, tmp_path: Path) -> Running:
    net = tiny.save(tiny.generator(embedding=128), tmp_path / "swap.onnx")
    return start(
        net=net,
        inputs=(f"image=image:{tiny.SIZE}:0:1:template=arcface_128", "identity=embedding"),
        token=BearerToken(SECRET),
    )


def test_the_page_loads_nothing_and_says_what_a_browser_may_do(plain: Running) -> None:
    reply = plain.get("/")
    page, policy = reply.body.decode(), reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert not re.search(r"(src|href)=\"(https?:)?//|@import|url\(|\son\w+=|\sstyle=", page)
    inputs = re.findall(r"<(?:input|select)[^>]*>", page)
    assert len(inputs) == 5 and page.count("<label") == 5 and 'lang="en"' in page
    assert all("alt=" in image for image in re.findall(r"<img[^>]*>", page))


@pytest.mark.parametrize("kind", ["light desktop", "dark phone"])
def test_two_photos_go_in_and_the_result_is_seen(
    kind: str, swapping: Running, browser: Browser, photos: list[bytes], tmp_path: Path
) -> None:
    files = [tmp_path / "me.png", tmp_path / "party.png"]
    for file, photo in zip(files, photos[:2], strict=True):
        file.write_bytes(photo)
    phone = "phone" in kind
    browser.shape(390 if phone else 1280, 844 if phone else 900, dark="dark" in kind, phone=phone)
    browser.open(f"http://127.0.0.1:{swapping.port}/")
    browser.wait_for("!document.getElementById('token-field').hidden")
    assert browser.run("document.getElementById('go').disabled")
    browser.choose("#source", files[0])
    browser.choose("#target", files[1])
    browser.wait_for("!document.getElementById('go').disabled")
    browser.run("document.getElementById('go').click()")
    browser.wait_for("document.getElementById('problem').innerText.includes('token')")
    browser.run(f"document.getElementById('token').value = '{SECRET}'")
    browser.run("document.getElementById('go').click()")
    browser.wait_for("document.getElementById('result-image').naturalWidth === 256")
    facts = browser.run("document.getElementById('facts').innerText")
    assert "swap.onnx" in facts and "ONNX" in facts and re.search(r"\d+ of \d+", facts)
    assert browser.run("document.getElementById('problem').hidden")
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    browser.photograph(tmp_path / "page.png")
    complaints = [text for text in browser.complaints if "401" not in text]
    assert not complaints


def test_what_is_wrong_is_said_on_the_page(plain: Running, browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    browser.open(f"http://127.0.0.1:{plain.port}/")
    browser.wait_for("document.getElementById('source-card').hidden")  # a restorer takes no source
    browser.choose("#target", bad)
    browser.wait_for("!document.getElementById('go').disabled")
    browser.run("document.getElementById('go').click()")
    browser.wait_for("document.getElementById('problem').innerText.includes('not a JPEG')")
    assert "What to do: save the photo" in browser.run("document.getElementById('problem').innerText")
