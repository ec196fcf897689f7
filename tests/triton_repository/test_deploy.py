"""The files that start Triton are what compose, Kubernetes, KEDA, KServe and hadolint take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from trt_facefusion.errors import BadInputError
from trt_facefusion.triton.deploy import Deployment, list_arguments, make_files

SCHEMAS = Path(__file__).resolve().parents[1] / "data" / "schemas"
GPU = Deployment("26.08", "face_swap", ("face_swap_photo",), gpu=True, version_compatible=True)
CPU = Deployment("24.10", "swap", ("swap",), gpu=False)
BOTH = pytest.mark.parametrize("deployment", [GPU, CPU], ids=["gpu", "cpu"])


def documents(deployment: Deployment, name: str) -> list[Any]:
    return list(yaml.safe_load_all(make_files(deployment)[name]))


@BOTH
def test_compose_takes_the_compose_file(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "docker-compose.yaml"
    file.write_bytes(make_files(deployment)["docker-compose.yaml"])
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    (document,) = documents(deployment, "docker-compose.yaml")
    service = document["services"]["triton"]
    assert ("deploy" in service) == deployment.gpu and service["healthcheck"]["test"][-1].endswith("/v2/health/ready")
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@BOTH
def test_kubernetes_takes_the_manifests(deployment: Deployment) -> None:
    workload, service, scaled = documents(deployment, "kubernetes.yaml")
    for document in (workload, service):
        kubernetes_validate.validate(document, "1.33", strict=True)
    jsonschema.validate(scaled, json.loads((SCHEMAS / "keda-scaledobject.json").read_text()))
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe", "resources"} <= set(container)
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == deployment.gpu
    assert scaled["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"] == service["metadata"]["name"]
    assert "nv_inference_queue_duration_us" in scaled["spec"]["triggers"][0]["metadata"]["query"]


@BOTH
def test_kserve_takes_the_service(deployment: Deployment) -> None:
    (document,) = documents(deployment, "kserve.yaml")
    jsonschema.validate(document, json.loads((SCHEMAS / "kserve-inferenceservice.json").read_text()))
    # Its predictor is a pod, and Kubernetes says what that may be.
    predictor = document["spec"]["predictor"]
    pod = {key: predictor[key] for key in ("containers", "volumes", "terminationGracePeriodSeconds")}
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod}, "1.33", strict=True
    )


@pytest.mark.parametrize("change", [("minReplicas", "two"), ("replicas", 2)])
def test_what_kserve_does_not_know_is_noticed(change: tuple[str, object]) -> None:
    (document,) = documents(GPU, "kserve.yaml")
    document["spec"]["predictor"][change[0]] = change[1]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json.loads((SCHEMAS / "kserve-inferenceservice.json").read_text()))


@BOTH
def test_images_are_pinned_and_hadolint_has_nothing_to_say(deployment: Deployment, tmp_path: Path) -> None:
    files = make_files(deployment)
    assert all(b":latest" not in content for content in files.values())
    assert f"FROM nvcr.io/nvidia/tritonserver:{deployment.release}-py3".encode() in files["Dockerfile"]
    assert b"'numpy<2'" in files["Dockerfile"]
    (tmp_path / "Dockerfile").write_bytes(files["Dockerfile"])
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_nothing_of_a_configuration_is_guessed_and_compatible_engines_are_allowed() -> None:
    assert "--disable-auto-complete-config" in list_arguments(GPU)
    assert "--backend-config=tensorrt,version-compatible=true" in list_arguments(GPU)
    assert not any("version-compatible" in argument for argument in list_arguments(CPU))


@pytest.mark.parametrize("release", ["latest", "26.13", "2.51.0", "23.08"])
def test_only_releases_of_triton_are_taken(release: str) -> None:
    with pytest.raises(BadInputError, match="Triton"):
        make_files(Deployment(release, "swap", ("swap",), gpu=True))
