"""Trained networks in use: from a person's pixels to joints with a sigma, with torch or with ONNX Runtime."""
