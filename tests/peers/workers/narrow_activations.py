"""Lets the products of an ONNX file with quantized weights round activations to 8 bits, as llamac does by default.

    python narrow_activations.py DIRECTORY

Exports ask for no such rounding (`accuracy_level`), and ONNX Runtime then computes in f32, which is slower.
"""

import sys

import onnx

path = f"{sys.argv[1]}/model.onnx"
model = onnx.load(path, load_external_data=False)
for node in model.graph.node:
    if node.op_type == "MatMulNBits":
        kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("accuracy_level", 4)])
onnx.save(model, path)
