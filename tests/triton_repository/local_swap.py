"""One photo by the local pipeline, in whichever Python runs this: ENGINE CONTRACT SOURCE TARGET OUT."""

import sys
from pathlib import Path

from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.swap.swapper import Swapper

engine, folder, source, target, out = map(Path, sys.argv[1:])
with Swapper(engine, contract=Contract.load(folder)) as swapper:
    swapper.swap(source, target).save(out)
