"""infinity's own command, in an environment of its own.

optimum's exporter imports two names that newer torch no longer has. They are for exporting, which a folder with an
ONNX file does not need; without them nothing of optimum can be imported.
"""

import torch.onnx.symbolic_opset14 as opset

for name in ("_attention_scale", "_causal_attention_mask"):
    if not hasattr(opset, name):
        setattr(opset, name, None)

from infinity_emb.cli import cli  # noqa: E402

cli()
