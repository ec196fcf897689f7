"""Copy an installed TensorRT, wherever it is, into one folder that can be carried to another image.

    python3 collect_tensorrt.py tensorrt /opt/tensorrt

FOLDER/python gets the Python packages with their metadata; FOLDER/lib the libraries that they load, and those beside
them that are loaded later (builder resources, one for each kind of GPU). Needs nothing but the standard library.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

_LIBRARY = re.compile(r"^lib(nvinfer|nvonnxparser|tensorrt)[\w.-]*\.so[.\d]*$")


def collect(module: str, folder: Path) -> None:
    """Raises ImportError where ``module`` is not there, and FileNotFoundError where it came without a library."""
    importlib.import_module(module)
    packages = {name.partition(".")[0] for name in sys.modules if name.startswith(module)}
    for name in packages:
        source = Path(str(sys.modules[name].__file__)).parent
        shutil.copytree(source, folder / "python" / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.pyc"))
    for made in _metadata(packages):
        shutil.copytree(made, folder / "python" / made.name, dirs_exist_ok=True)
    _copy_libraries(folder / "lib", {Path(str(sys.modules[name].__file__)).resolve().parent for name in packages})


def _metadata(packages: set[str]) -> set[Path]:
    """The folders of metadata of the distributions that ``packages`` came from."""
    names = {name for package in packages for name in metadata.packages_distributions().get(package, ())}
    wanted = {re.sub(r"[-_.]+", "_", name).lower() for name in names}
    beside = {Path(str(metadata.distribution(name).locate_file("."))) for name in names}
    folders = {made for folder in beside for made in folder.glob("*-info")}
    return {made for made in folders if re.sub(r"[-_.]+", "_", made.name.partition("-")[0]).lower() in wanted}


def _copy_libraries(folder: Path, packages: set[Path]) -> None:
    """Copy the libraries that were loaded and those beside them, where they do not lie in ``packages`` anyway."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    loaded = {Path(line.split()[-1]) for line in lines if ".so" in line}
    sources = {path.parent for path in loaded if _LIBRARY.match(path.name)}
    if not sources:
        raise FileNotFoundError("no library of TensorRT was loaded")
    folder.mkdir(parents=True, exist_ok=True)
    found = {path for source in sources - packages for path in source.iterdir() if _LIBRARY.match(path.name)}
    for path in found | {path for path in loaded if str(path).startswith("/usr/local/cuda")}:
        shutil.copy2(path, folder / path.name, follow_symlinks=False)


if __name__ == "__main__":
    collect(sys.argv[1], Path(sys.argv[2]))
    print(*sorted(str(path) for path in Path(sys.argv[2]).glob("*/*")), sep="\n")
