"""The record of a build, as its report reads it: figures as JSON, and the pictures of a few faces."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.report_facts import RunFacts, SearchFacts, check_pictures, read_facts
from trt_facefusion.errors import StoreError
from trt_facefusion.storage.arrays import read_npz
from trt_facefusion.storage.documents import DocumentError, decode, parse_json, read_bytes
from trt_facefusion.storage.files import make_store_error

SCHEMA = 1
FACTS, PICTURES, SEARCH = "run.json", "pictures.npz", "search.json"
_LARGEST_PICTURES = 768 << 20
_REMEDY = "Name a folder that a build wrote (reports/MODEL/TIME), or build again with --force."


@dataclass(frozen=True)
class RunRecord:
    """One build: ``facts`` is plain JSON, ``pictures`` [N,S,S,3] uint8 by name (`Gallery`)."""

    facts: Mapping[str, Any]
    pictures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    def files(self) -> dict[str, bytes]:
        """The record as files, name -> content."""
        packed = io.BytesIO()
        np.savez_compressed(packed, **dict(self.pictures))  # type: ignore[arg-type]
        text = json.dumps({"schema": SCHEMA, **self.facts}, indent=1, allow_nan=False) + "\n"
        return {FACTS: text.encode(), PICTURES: packed.getvalue()}

    @cached_property
    def shown(self) -> RunFacts:
        """The facts as a reader of the record's files finds them."""
        return read_facts(json.loads(json.dumps(self.facts)))

    @classmethod
    def load(cls, folder: Path) -> RunRecord:
        """Read what `files` wrote into ``folder``.

        Raises:
            StoreError: no record there, a damaged one, or one of another schema.
        """
        file = folder / FACTS
        try:
            facts = parse_json(read_bytes(file))
            if not isinstance(facts, dict) or facts.pop("schema", None) != SCHEMA:
                raise StoreError(f"{file}: it is a record of another version of this tool.", _REMEDY)
            shown = read_facts(facts)
            file = folder / PICTURES
            pictures = read_npz(file, _LARGEST_PICTURES)
            check_pictures(shown, pictures)
        except DocumentError as error:
            raise StoreError(f"{file}: {error}.", _REMEDY) from error
        except OSError as error:
            raise StoreError(f"{file} cannot be read: {error.strerror or error}.", _REMEDY) from error
        return cls(facts, pictures)


def read_search(folder: Path) -> dict[str, Any] | None:
    """What the plan search left in an engine's folder; None where the plan was not searched for.

    Raises:
        StoreError: the file is damaged.
    """
    path = folder / SEARCH
    if not path.exists():
        return None
    try:
        document: dict[str, Any] = parse_json(read_bytes(path))
        decode(SearchFacts, document, "search", lenient=True)
    except DocumentError as error:
        raise StoreError(f"{path}: {error}.", "Build the engine again with --force.") from error
    except OSError as error:
        raise make_store_error(error, path, "read") from error
    return document
