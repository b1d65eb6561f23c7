"""A model as a graph for ONNX Runtime and OpenVINO, which encodes without torch."""
