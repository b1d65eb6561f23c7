"""What computes vectors: PyTorch, ONNX, OpenVINO."""
