"""The repository in a real tritonserver, with stand-ins for the two backends that PyPI's has not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import packaged_engines as engines
import pytest
import real_server
import tiny
from real_server import Triton, run_triton

from trt_facefusion.faces.decode import read_image
from trt_facefusion.inference import embedders as embedders_module
from trt_facefusion.swap.photo import Photo, decode_photo
from trt_facefusion.swap.photo_file import JPEG, PNG, encode_photo
from trt_facefusion.triton.configs import ServingSettings
from trt_facefusion.triton.repository import CONFIG, PackageRequest, package_engines

pytestmark = pytest.mark.slow
ENSEMBLE = "swap_photo"


@pytest.fixture(scope="session")
def environment() -> Path:
    found = real_server.find_environment()
    if found is None:
        pytest.skip("no tritonserver: run scripts/get_triton.sh, or name its folder in TRT_FF_TRITON")
    return found


@pytest.fixture(scope="module")
def photos(sample_faces: Path) -> list[bytes]:
    """Sources (JPEG as they are), and targets as PNG, which loses nothing."""
    files = sorted(sample_faces.glob("*.jpg"))[33:41]
    return [encode_photo(Photo(read_image(file)), PNG) for file in files]


@pytest.fixture(scope="module")
def repository(a10g_engine: Path, l4_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served") / "model_repository"
    patient = ServingSettings(queue_delay_us=300_000)  # longer than two processes take to prepare a photo each
    package_engines(PackageRequest((a10g_engine, l4_engine), root, "swap", ("a10g", "l4"), patient))
    return root


@pytest.fixture(scope="module")
def served(environment: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """As it is shipped, on a machine without a GPU."""
    folder = tmp_path_factory.mktemp("triton")
    with run_triton(environment, folder, repository, [ENSEMBLE], "--model-config-name=ci") as triton:
        yield triton


def test_the_ensemble_gives_what_the_local_pipeline_gives(
    served: Triton, environment: Path, repository: Path, photos: list[bytes], tmp_path: Path
) -> None:
    source, target, out = (tmp_path / name for name in ("source.png", "target.png", "out.png"))
    source.write_bytes(photos[1]), target.write_bytes(photos[0])
    files = [repository / "swap" / "1" / "typed.onnx", repository / "swap_preprocess" / "1", source, target, out]
    script = Path(__file__).with_name("local_swap.py")
    variables = {**os.environ, "PYTHONPATH": str(real_server.ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([environment / "bin" / "python", script, *files], check=True, env=variables)
    local = decode_photo(out.read_bytes()).rgb8.astype(int)
    by_triton = served.swap(ENSEMBLE, [photos[1]], photos[0])
    assert np.abs(decode_photo(by_triton).rgb8 - local).max() <= 1
    assert (decode_photo(photos[0]).rgb8 != local).any(axis=2).mean() > 0.2
    assert b"AI-generated" in by_triton


def test_the_client_of_the_document_works(
    served: Triton, photos: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("geventhttpclient", reason="no tritonclient[http]")
    text = (real_server.ROOT / "docs" / "triton.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for name, photo in zip(("me.jpg", "party.jpg"), photos[:2], strict=True):
        (tmp_path / name).write_bytes(encode_photo(decode_photo(photo), JPEG))
    exec(snippet.replace("localhost:8000", f"127.0.0.1:{served.http}"), {})
    assert decode_photo((tmp_path / "out.jpg").read_bytes()).rgb8.shape == (256, 256, 3)


def test_requests_that_wait_are_merged(served: Triton, photos: list[bytes]) -> None:
    def count() -> tuple[float, float]:
        return served.metric("nv_inference_count", "swap"), served.metric("nv_inference_exec_count", "swap")

    before = count()
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda n: served.swap(ENSEMBLE, [photos[n % 8]], photos[(n + 1) % 8]), range(48)))
    faces, runs = (after - was for after, was in zip(count(), before, strict=True))
    assert faces == 48 and runs <= 32
    assert len(set(answers)) == 8  # each its own


def test_a_photo_without_a_face_is_an_error_of_its_request_alone(served: Triton, photos: list[bytes]) -> None:
    grey = encode_photo(Photo(np.full((64, 64, 3), 99, np.uint8)), PNG)
    with pytest.raises(RuntimeError, match=r"400.*shows no face"):
        served.swap(ENSEMBLE, [photos[0]], grey)
    with pytest.raises(RuntimeError, match=r"400.*source 1 shows no face"):
        served.swap(ENSEMBLE, [grey], photos[0])
    with pytest.raises(RuntimeError, match=r"400.*not a JPEG"):
        served.swap(ENSEMBLE, [photos[0]], b"\xff\xd8nothing")
    assert served.swap(ENSEMBLE, [photos[1]], photos[0])


def test_a_new_version_is_taken_up_under_load_and_nothing_is_lost(
    environment: Path,
    onnx_engine: Path,
    faces: Path,
    photos: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
        other = engines.build_engine(tmp_path, faces, seed=1)
    root = tmp_path / "model_repository"
    package_engines(PackageRequest((onnx_engine,), root, "swap"))
    with run_triton(environment, tmp_path, root, [ENSEMBLE]) as triton:
        first = triton.swap(ENSEMBLE, [photos[1]], photos[0])
        stop, answers, failures = threading.Event(), [], []

        def ask() -> None:
            while not stop.is_set():
                try:
                    answers.append(triton.swap(ENSEMBLE, [photos[1]], photos[0]))
                except Exception as error:
                    failures.append(error)

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        package_engines(PackageRequest((other,), root, "swap"))
        triton.load("swap")
        time.sleep(3)
        stop.set()
        for client in clients:
            client.join()
        last = triton.swap(ENSEMBLE, [photos[1]], photos[0])
        assert not failures
        assert last != first and {first, last} == set(answers)
        assert triton.ask("GET", "/v2/models/swap/versions/2/ready")[0] == 200
        assert triton.ask("GET", "/v2/models/swap/versions/1/ready")[0] == 400


def test_tensorrts_configuration_loads_and_another_gpu_is_an_error(
    environment: Path, repository: Path, photos: list[bytes], tmp_path: Path
) -> None:
    """As on a GPU, but for the kind of instance, which a machine without one refuses."""
    root = shutil.copytree(repository, tmp_path / "repository")
    config = root / "swap" / CONFIG
    config.write_text(config.read_text().replace("KIND_GPU", "KIND_CPU"))
    with run_triton(environment, tmp_path, root, ["swap"], gpu="8.9") as triton:
        status, content, _ = triton.ask("GET", "/v2/models/swap/config")
        assert status == 200 and b"tensorrt_plan" in content and b"no_engine_for_this_gpu.plan" in content
    with (
        pytest.raises(RuntimeError, match=r"unable to find '.*no_engine_for_this_gpu.plan'"),
        run_triton(environment, tmp_path, root, ["swap"], gpu="8.0"),
    ):
        pass
