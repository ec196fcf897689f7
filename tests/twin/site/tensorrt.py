"""``import tensorrt`` in a process of its own: the twin, of the version that TRT_FF_TWIN names."""

from __future__ import annotations

import os
import sys

from twin import builder, whole

sys.modules[__name__] = whole.make(os.environ.get("TRT_FF_TWIN", builder.VERSION_10))
