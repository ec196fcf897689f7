"""One JSON object a line: what was asked, what came of it; no picture, no vector, no name of a client's file."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from trt_facefusion.serving.engines.events import EventKind, ServingEvent

LOGGER = logging.getLogger("trt_facefusion.serving")
_GOOD_NEWS = {EventKind.ENGINE_BACK, EventKind.ROLLOUT_BEGUN, EventKind.STEP_TAKEN, EventKind.PROMOTED}


class JsonLines(logging.Formatter):
    """Records as JSON: those of the service with their fields, those of libraries with their message alone."""

    def format(self, record: logging.LogRecord) -> str:
        """``record`` as one line; exceptions by class, because their texts may hold what a client sent."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=True, default=str)


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write one line; fields that are None are left out."""
    kept = {name: value for name, value in fields.items() if value is not None}
    LOGGER.log(level, event, extra={"fields": kept})


def log_event(event: ServingEvent) -> None:
    """Write what happened to an engine, or to a candidate."""
    level = logging.INFO if event.kind in _GOOD_NEWS else logging.WARNING
    log(event.kind.value, level, engine=event.engine, message=event.message)


def log_as_json(level: int = logging.INFO) -> None:
    """Let the service and its HTTP server write JSON lines to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name, least in ((LOGGER.name, level), ("uvicorn", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)
