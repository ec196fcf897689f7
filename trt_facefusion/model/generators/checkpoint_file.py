"""Reading the file of a checkpoint without running code from it, in bounded memory."""

from __future__ import annotations

import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trt_facefusion.errors import ModelError
from trt_facefusion.model.generators.user_code import describe_cause

_LARGEST_HEADER_BYTES = 64 << 20
"""Of what describes the tensors in a file: a state of a hundred thousand tensors takes 20 MB."""
_SAVE_ALONE = "save the weights alone: torch.save(net.state_dict(), FILE), or use safetensors"


def read_checkpoint(path: Path, size: int) -> object:
    """What the checkpoint in ``path``, of ``size`` bytes, holds: mappings in mappings, down to tensors.

    Raises:
        ModelError: damaged, holds anything but plain tensors, or claims more than it holds.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            _check_safetensors(path, size)
            return load_file(path)
        _check_archive(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds Python objects, or is damaged: only plain weights are loaded", _SAVE_ALONE
        ) from error
    except (MemoryError, RecursionError) as error:
        raise ModelError(f"reading {path} takes more than its {size:,} bytes can need", _SAVE_ALONE) from error
    except Exception as error:
        raise ModelError(
            f"cannot read the checkpoint {path}: {describe_cause(error)}", "download or save it again"
        ) from error


def _check_archive(path: Path, size: int) -> None:
    """Refuse a zip file whose entries claim more than the file holds: torch would make room for all of it."""
    if not zipfile.is_zipfile(path):
        return  # torch's older format, which reads on
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > size:
        raise ModelError(
            f"{path} unpacks to more than its {size:,} bytes: torch packs nothing", "download or save it again"
        )
    if any(e.filename.endswith(".pkl") and e.file_size > _LARGEST_HEADER_BYTES for e in entries):
        raise ModelError(f"{path}: what describes the weights is larger than any network needs", _SAVE_ALONE)


def _check_safetensors(path: Path, size: int) -> None:
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8:
        raise ModelError(f"cannot read the checkpoint {path}: it was cut off", "download or save it again")
    (header,) = struct.unpack("<Q", start)
    if header > min(_LARGEST_HEADER_BYTES, size - 8):
        raise ModelError(
            f"cannot read the checkpoint {path}: its header claims {header:,} bytes", "download or save it again"
        )


@contextmanager
def limit_memory(extra_bytes: int) -> Iterator[None]:
    """Let the process grow by at most ``extra_bytes`` (Linux): what asks for more gets a MemoryError."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    needed = pages * resource.getpagesize() + extra_bytes
    limit = min((bound for bound in (needed, soft, hard) if bound != resource.RLIM_INFINITY), default=needed)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
