"""Engines, which compute vectors: PyTorch, ONNX, OpenVINO."""
