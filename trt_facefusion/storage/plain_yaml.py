"""YAML as plans and presets need it: mappings, lists, plain values, and nothing that makes a small text a large one."""

from __future__ import annotations

from typing import Any

import yaml

from trt_facefusion.storage.documents import DocumentError

LARGEST_BYTES = 8 << 20
_DEEPEST = 20
_MOST_VALUES = 1_000_000
_Loader: Any = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # libyaml's, where PyYAML was built with it: ten times faster


def parse_yaml(text: str) -> Any:
    """One YAML document without aliases, tags or repeated keys, and not nested without end.

    Raises:
        DocumentError: it is no such thing.
    """
    try:
        _check(text)
        return yaml.load(text, Loader=_Loader)  # a safe loader, checked above
    except DocumentError:
        raise
    except yaml.YAMLError as error:
        raise DocumentError(f"it is not YAML: {' '.join(str(error).split())}") from error
    except (ValueError, RecursionError) as error:  # such as a date in month 13
        raise DocumentError(f"it is not YAML: {error}") from error


def _check(text: str) -> None:
    """Go through the document's events, which cost no memory, before any of it is built."""
    open_: list[tuple[bool, set[str]]] = []  # of each open collection: whether it is a mapping, and its keys so far
    key_next: list[bool] = []
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.AliasEvent):
            raise DocumentError("it has an alias (*), which no plan needs")
        if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None) is not None:
            raise DocumentError(f"it has a tag ({event.tag}), which no plan needs")  # type: ignore[attr-defined]
        if count > _MOST_VALUES or len(open_) > _DEEPEST:
            raise DocumentError("it is larger or nested deeper than any plan")
        if isinstance(event, yaml.CollectionEndEvent):
            open_.pop()
            key_next.pop()
        if isinstance(event, yaml.ScalarEvent) and open_ and open_[-1][0] and key_next[-1]:
            keys = open_[-1][1]
            if event.value in keys:
                raise DocumentError(f"it has {event.value!r:.60} twice in one entry")
            keys.add(event.value)
        if key_next and isinstance(event, yaml.ScalarEvent | yaml.CollectionEndEvent):
            key_next[-1] = not key_next[-1]
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((isinstance(event, yaml.MappingStartEvent), set()))
            key_next.append(True)
