"""The user's own code behind a factory: every module that its import brings in, found without running any of it.

Imports are followed from file to file as the text says: also those inside of functions, and ``import_module("name")``.
What is counted is the user's: modules of the current folder and of other folders of ``sys.path`` that belong to no
installation, and the factory's own package wherever it lies. Installed packages count by their version.

Not seen: names that are computed (``import_module(name)``), folders that the code adds to ``sys.path`` itself, and data
files that it reads. `find_unseen_modules` tells after the import which modules were missed.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from trt_facefusion.errors import BadInputError
from trt_facefusion.storage.files import read_regular

_MAX_FILES = 5000
_MAX_SOURCE_BYTES = 32 << 20
_ENDINGS = (".py", *importlib.machinery.EXTENSION_SUFFIXES)
_OURS = "trt_facefusion"


def collect_local_code(module: str, folder: Path) -> dict[str, bytes]:
    """What decides what ``module`` does, by name: content of the user's files, versions of installed packages.

    Args:
        module: the factory's module, with dots.
        folder: the current folder, which goes before ``sys.path``.

    Raises:
        BadInputError: a file cannot be read, or there are more than 5000.
    """
    own = module.partition(".")[0]
    found: dict[str, bytes] = {}
    pending, known = [module], set()
    while pending:
        name = pending.pop()
        if name in known or name.partition(".")[0] in (_OURS if own != _OURS else "",):
            continue
        known.add(name)
        top = name.partition(".")[0]
        base, is_local = _find_base(top, folder)
        if base is None or not (is_local or top == own):
            found |= _read_version(top) if base is not None and not _is_standard(top) else {}
            continue
        for label, path, package in _iterate_files(name, base):
            if label in found:
                continue
            if len(found) >= _MAX_FILES:
                raise BadInputError(
                    f"the code of --model {module} spans more than {_MAX_FILES} files",
                    "put the network into a package of its own, or export it yourself and pass --onnx",
                )
            found[label] = read_regular(path, "source file", limit_bytes=_MAX_SOURCE_BYTES)
            if path.suffix == ".py":
                pending += _parse_imports(found[label], package)
    return found


def find_unseen_modules(known: dict[str, bytes], folder: Path) -> list[str]:
    """Modules of the user's that are loaded now and that `collect_local_code` did not find: they count for no digest."""
    missed = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or Path(path).suffix != ".py" or name.partition(".")[0] in {_OURS, "__main__"}:
            continue
        if Path(path).is_relative_to(folder) and not is_installed(Path(path)) and not _is_counted(name, known):
            missed.append(name)
    return sorted(missed)


def _is_counted(name: str, known: dict[str, bytes]) -> bool:
    path = name.replace(".", "/")
    return any(label in known for label in (f"{path}.py", f"{path}/__init__.py"))


def _find_base(top: str, folder: Path) -> tuple[Path | None, bool]:
    """The folder in which the package or module ``top`` lies, and whether it is the user's."""
    for place in (folder, *_list_local_folders()):
        if (place / top).is_dir() or any((place / f"{top}{ending}").is_file() for ending in _ENDINGS):
            return place, True
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError, AttributeError):  # a module that is loaded without a spec
        return None, False
    if spec is None or spec.origin in {None, "built-in", "frozen"}:
        locations = list(spec.submodule_search_locations or ()) if spec is not None else []
        return (Path(locations[0]).parent, not is_installed(Path(locations[0]))) if locations else (None, False)
    origin = Path(str(spec.origin))
    place = origin.parent.parent if origin.name.startswith("__init__.") else origin.parent
    return place, not is_installed(origin)


def _list_local_folders() -> list[Path]:
    places = [Path(entry) for entry in sys.path if entry]
    return [place for place in places if place.is_dir() and not is_installed(place)]


def is_installed(path: Path) -> bool:
    """Whether a path belongs to Python itself or to what was installed into it."""
    roots = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    parts = set(path.parts)
    return bool(parts & {"site-packages", "dist-packages"}) or any(path.is_relative_to(r) for r in roots if r)


def _is_standard(top: str) -> bool:
    return top in sys.stdlib_module_names


def _read_version(top: str) -> dict[str, bytes]:
    try:
        return {f"{top} (installed)": metadata.version(top).encode()}
    except (metadata.PackageNotFoundError, ValueError):
        return {}


def _iterate_files(name: str, base: Path) -> Iterator[tuple[str, Path, str]]:
    """The files that importing ``name`` runs: a label, the path, and the package that relative imports start from."""
    parts = name.split(".")
    place = base
    for depth, part in enumerate(parts, 1):
        label = "/".join(parts[:depth])
        package = place / part / "__init__.py"
        if package.is_file():
            yield f"{label}/__init__.py", package, ".".join(parts[:depth])
        elif not (place / part).is_dir():
            for ending in _ENDINGS:
                path = place / f"{part}{ending}"
                if path.is_file():
                    yield f"{label}{ending}", path, ".".join(parts[: depth - 1])
                    return
            return  # a name inside of a module, or nothing
        place /= part


def _parse_imports(source: bytes, package: str) -> list[str]:
    """Names of modules that a file may import; names inside of modules are among them and lead nowhere."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # running it tells better
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _resolve_import(node.module or "", node.level, package)
            if origin is not None:
                found += [origin, *(f"{origin}.{alias.name}" for alias in node.names if alias.name != "*")]
        elif isinstance(node, ast.Call):
            found += _parse_import_call(node, package)
    return [name for name in found if name]


def _parse_import_call(node: ast.Call, package: str) -> Sequence[str]:
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called not in {"import_module", "__import__"} or not node.args or not isinstance(node.args[0], ast.Constant):
        return ()
    name = node.args[0].value
    if not isinstance(name, str):
        return ()
    level = len(name) - len(name.lstrip("."))
    absolute = _resolve_import(name[level:], level, package)
    return () if absolute is None else (absolute,)


def _resolve_import(name: str, level: int, package: str) -> str | None:
    if level == 0:
        return name
    parts = package.split(".") if package else []
    if level - 1 > len(parts):
        return None
    start = parts[: len(parts) - (level - 1)]
    return ".".join([*start, *([name] if name else [])]) or None
