"""Videos: frames in are frames out, sound is kept, a kill changes nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import clips
import numpy as np
import pytest
from numpy.typing import NDArray
from pixelwise import save_pixelwise

from trt_facefusion.errors import BackendUnavailableError, BadInputError
from trt_facefusion.swap.provenance import SOURCE_TYPE, TEXT
from trt_facefusion.swap.selection import FaceSelection
from trt_facefusion.swap.swapper import Swapper, SwapSettings
from trt_facefusion.swap.video import frames as frames_module
from trt_facefusion.swap.video.encoding import EncodingSettings
from trt_facefusion.swap.video.render import VideoResult, VideoSwap

Open = Callable[..., Swapper]
Picture = NDArray[np.uint8]


@pytest.fixture
def swap(inverting: Path, make_swapper: Open) -> Callable[..., VideoResult]:
    """Swaps a video by the network that inverts faces, in segments of 8 frames."""

    def run(source: Path, out: Path, codec: str | None = None, **options: object) -> VideoResult:
        swapper = make_swapper(inverting, settings=SwapSettings(colours=False))
        job = VideoSwap(swapper, None, FaceSelection(), EncodingSettings(codec), **{"segment": 8, **options})
        return job.run(source, out)

    return run


def test_frames_times_and_sound_are_kept(face: Picture, tmp_path: Path, swap: Callable[..., VideoResult]) -> None:
    clip = clips.make_clip(tmp_path / "in.mp4", face, 20)
    result = swap(clip, tmp_path / "out.mp4")
    assert (result.frames, result.faces, result.resumed) == (20, 20, 0)
    out = tmp_path / "out.mp4"
    before, after = clips.read_frames(clip), clips.read_frames(out)
    assert len(before) == len(after) == 20
    assert np.allclose(clips.read_times(clip), clips.read_times(out), atol=1e-6)
    assert clips.read_sound(clip) == clips.read_sound(out)
    assert all(np.abs(a.astype(int) - b).mean() > 3 for a, b in zip(before, after, strict=True))
    with av.open(str(out)) as container:
        assert TEXT in container.metadata["comment"] and SOURCE_TYPE in container.metadata["comment"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize(("codec", "pixels"), [("ffv1", "yuv420p"), ("ffv1", "yuv444p10le"), ("ffv1", "bgra")])
def test_without_loss_the_planes_stay_bit_by_bit_where_no_face_is(
    codec: str, pixels: str, face: Picture, tmp_path: Path, swap: Callable[..., VideoResult]
) -> None:
    clip = clips.make_clip(tmp_path / "in.mkv", face, 3, codec=codec, pixels=pixels, sound="flac")
    swap(clip, tmp_path / "out.mkv")
    name = "rgb48le" if pixels.endswith("le") else "rgb24"
    for before, after in zip(clips.read_frames(clip, name), clips.read_frames(tmp_path / "out.mkv", name), strict=True):
        changed = (before != after).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert len(rows) and np.ptp(rows) < 140 and np.ptp(columns) < 140  # the face, nothing else
        assert changed.mean() < 0.3
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.streams.video[0].format.name == pixels
    assert [content for _, content in clips.read_sound(clip)] == [
        content for _, content in clips.read_sound(tmp_path / "out.mkv")
    ]


def test_uneven_times_stay_uneven(face: Picture, tmp_path: Path, swap: Callable[..., VideoResult]) -> None:
    times = np.cumsum([0, 40, 40, 90, 20, 20, 200, 33, 33, 34, 500, 40, 40, 17, 80, 40, 40, 40, 41, 43]).tolist()
    clip = clips.make_clip(tmp_path / "in.mkv", face, 20, times=times)
    swap(clip, tmp_path / "out.mp4")
    assert np.allclose(clips.read_times(tmp_path / "out.mp4"), np.array(times) / 1000, atol=1e-3)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_a_video_on_its_side_is_seen_upright_and_stays_on_its_side(
    rotation: int, face: Picture, tmp_path: Path, swap: Callable[..., VideoResult]
) -> None:
    clip = clips.make_clip(tmp_path / "in.mp4", face, 3, rotation=rotation, sound=None)
    result = swap(clip, tmp_path / "out.mp4")
    assert result.faces == 3
    with av.open(str(clip)) as one, av.open(str(tmp_path / "out.mp4")) as other:
        before, after = next(one.decode(video=0)), next(other.decode(video=0))
    assert before.rotation % 360 == after.rotation % 360 == rotation % 360
    assert (before.width, before.height) == (after.width, after.height)


@pytest.mark.parametrize(("name", "codec"), [("out.webm", None), ("out.mkv", "hevc"), ("out.mov", "prores")])
def test_other_containers_and_codecs(
    name: str, codec: str | None, face: Picture, tmp_path: Path, swap: Callable[..., VideoResult]
) -> None:
    sound = "libopus" if name.endswith("webm") else "aac"
    clip = clips.make_clip(tmp_path / "in.mkv", face, 10, sound=sound)
    swap(clip, tmp_path / name, codec)
    assert len(clips.read_frames(tmp_path / name)) == 10
    assert len(clips.read_sound(tmp_path / name)) == len(clips.read_sound(clip))


def test_settings_that_change_begin_anew_and_a_finished_journal_only_writes_the_file(
    face: Picture, tmp_path: Path, swap: Callable[..., VideoResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trt_facefusion.swap.video import render

    clip = clips.make_clip(tmp_path / "in.mp4", face, 18)
    out = tmp_path / "out.mp4"
    swap(clip, tmp_path / "whole.mp4")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(render, "write_video", fail)
        with pytest.raises(Exception, match="No space left") as caught:
            swap(clip, out)
        assert "--out" in caught.value.remedy  # type: ignore[attr-defined]
    assert not out.exists()
    result = swap(clip, out)
    assert result.resumed == 18 and out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


_CHILD = """
import sys
from pathlib import Path
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.swap.selection import FaceSelection
from trt_facefusion.swap.swapper import Swapper, SwapSettings
from trt_facefusion.swap.video.encoding import EncodingSettings
from trt_facefusion.swap.video.render import VideoSwap
net, clip, out = map(Path, sys.argv[1:])
preset = Preset.from_inputs([parse_input("image=image:64:0:1:template=arcface_128")])
swapper = Swapper(net, contract=Contract(preset), settings=SwapSettings(colours=False))
VideoSwap(swapper, None, FaceSelection(), EncodingSettings(), segment=8).run(clip, out)
"""


def test_a_killed_process_loses_a_segment_at_most_and_the_file_is_the_same(
    face: Picture, tmp_path: Path, swap: Callable[..., VideoResult], inverting: Path
) -> None:
    clip = clips.make_clip(tmp_path / "in.mp4", face, 60)
    out, journal = tmp_path / "out.mp4", tmp_path / ".out.mp4.unfinished"
    swap(clip, tmp_path / "whole.mp4")
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(inverting), str(clip), str(out)])
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.stat().st_size > 4000:
            break
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert not out.exists() and journal.exists()
    result = swap(clip, out)
    assert 8 <= result.resumed < 60 and result.frames == 60
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not journal.exists()


def test_refusals_say_what_is_wrong(
    face: Picture, tmp_path: Path, swap: Callable[..., VideoResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = clips.make_clip(tmp_path / "in.mp4", face, 6)
    with pytest.raises(BadInputError, match="not written") as caught:
        swap(clip, tmp_path / "out.xyz")
    assert ".mp4" in caught.value.remedy
    with pytest.raises(BadInputError, match="no codec"):
        swap(clip, tmp_path / "out.mp4", "realvideo")
    with pytest.raises(BadInputError, match="sound"):
        swap(clip, tmp_path / "out.webm")  # AAC does not go into WebM
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 99)
    with pytest.raises(BadInputError, match="cannot be opened"):
        swap(tmp_path / "bad.mp4", tmp_path / "out.mp4")
    whole = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(BadInputError, match=r"cut\.mp4"):
        swap(tmp_path / "cut.mp4", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=clips.SOUND_HZ, layout="mono")
        container.mux(audio.encode(clips._draw_sound(0)))
        container.mux(audio.encode(None))
    with pytest.raises(BadInputError, match="no video in it"):
        swap(tmp_path / "sound.mp4", tmp_path / "out.mp4")
    monkeypatch.setattr(frames_module, "import_av", _missing)
    with pytest.raises(BackendUnavailableError):
        swap(clip, tmp_path / "out.mp4")


def _missing() -> object:
    raise BackendUnavailableError("videos need PyAV", "install it")


def test_a_broken_picture_stops_the_video_and_what_is_done_stays(
    face: Picture, tmp_path: Path, make_swapper: Open
) -> None:
    from trt_facefusion.errors import GateError

    clip = clips.make_clip(tmp_path / "in.mp4", face, 20, sound=None)
    swapper = make_swapper(save_pixelwise(tmp_path / "net.onnx", "Sub"), settings=SwapSettings(colours=False))
    render, calls = swapper.engines.first._render_batch, [0]

    def broken(faces: object) -> object:
        calls[0] += 1
        rendered = render(faces)  # type: ignore[arg-type]
        if calls[0] > 4:  # 4 faces at a time: behind frame 16
            rendered[0].picture[:] = np.nan
        return rendered

    swapper.engines.first._render_batch = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(GateError, match="frame 17"):
        VideoSwap(swapper, None, FaceSelection(), EncodingSettings(), segment=8).run(clip, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists() and (tmp_path / ".out.mp4.unfinished").exists()
