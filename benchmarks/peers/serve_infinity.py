"""infinity's own command, in an environment of its own.

Before it can be imported at all, optimum registers symbols with an exporter that newer torch no longer has. They are
for exporting, which a folder with an ONNX file does not need: a stand-in takes them.
"""

import importlib
import sys
from unittest.mock import MagicMock

name = "torch.onnx.symbolic_opset14"
if not hasattr(importlib.import_module(name), "_attention_scale"):
    sys.modules[name] = MagicMock()

from infinity_emb.cli import cli  # noqa: E402

cli()
