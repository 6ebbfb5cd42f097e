"""QDQ ONNX for other runtimes: `ptq4dm.export.onnx_qdq.export_qdq`."""
