"""Files that start Triton on the repository: a Dockerfile, docker compose, Kubernetes with KEDA, KServe.

They lie in the repository's root, where Triton looks at folders only. Pods are added while requests wait: by the mean
time (in microseconds) that a request of the generator has lately spent in its queue.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from trt_facefusion import __version__
from trt_facefusion.triton.releases import name_image

TEMPLATES = Path(__file__).with_name("templates")
FILES = ("Dockerfile", "docker-compose.yaml", "kubernetes.yaml", "kserve.yaml")
_QUEUE_US = 5000
"""More than this in the queue, and another pod is started."""
_REQUIREMENTS = (
    "numpy<2",
    "filelock>=3.16",
    "jinja2>=3.1,<4",
    "onnx>=1.18,<1.24",
    'onnxruntime>=1.30,<1.33; python_version >= "3.11"',
    'onnxruntime>=1.23,<1.24; python_version < "3.11"',
    "opencv-python-headless>=4.10,<4.12",
    "packaging>=24",
    "pillow>=11,<14",
    "polygraphy>=0.53.6,<0.54",
    "pyyaml>=6",
    "safetensors>=0.5",
    "scikit-image>=0.25,<0.27",
    "tifffile>=2025.1",
)
"""What the steps import, with NumPy 1 (pyproject.toml has NumPy 2). The tests with a real Triton install these."""


@dataclass(frozen=True)
class Deployment:
    """How a repository is started: the Triton ``release``, the generator's ``name``, the ``models`` that are loaded."""

    release: str
    name: str
    models: tuple[str, ...]
    gpu: bool
    version_compatible: bool = False
    image: str | None = None

    @property
    def service(self) -> str:
        """The name as Kubernetes and compose take one."""
        return self.name.replace("_", "-")

    @property
    def tag(self) -> str:
        """The image that the Dockerfile makes."""
        return self.image or f"{self.service}-triton:{self.release}-{__version__}"


def list_requirements() -> tuple[str, ...]:
    """What the models of the python backend need beside this package, as pip takes it."""
    return _REQUIREMENTS


def list_arguments(deployment: Deployment, repository: str = "/models") -> list[str]:
    """The command that starts Triton: only what is named is loaded, and nothing of a configuration is guessed."""
    arguments = [
        "tritonserver",
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in deployment.models),
        "--disable-auto-complete-config",
        "--exit-timeout-secs=45",
    ]
    if deployment.version_compatible:
        arguments.append("--backend-config=tensorrt,version-compatible=true")
    return arguments


def make_files(deployment: Deployment) -> dict[str, bytes]:
    """The files by name."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # nothing of it is HTML, and names are checked
        keep_trailing_newline=True,
    )
    values = {
        "name": deployment.name,
        "service": deployment.service,
        "image": deployment.tag,
        "base": name_image(deployment.release),
        "requirements": _REQUIREMENTS,
        "command": list_arguments(deployment),
        "gpu": deployment.gpu,
        "cpus": 2,
        "query": json.dumps(make_query(deployment.name)),
        "threshold": _QUEUE_US,
    }
    return {name: environment.get_template(f"{name}.j2").render(values).encode() for name in FILES}


def make_query(model: str) -> str:
    """PromQL: microseconds that a request of ``model`` spent in its queue, the mean of the last minute."""
    waited = f'sum(rate(nv_inference_queue_duration_us{{model="{model}"}}[1m]))'
    answered = f'sum(rate(nv_inference_request_success{{model="{model}"}}[1m]))'
    return f"{waited} / clamp_min({answered}, 0.001)"
