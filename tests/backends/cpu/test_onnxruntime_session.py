"""Opening sessions of graphs that ONNX Runtime does not take."""

import pytest
from onnx import TensorProto, helper

from ptq4dm.backends.cpu.onnxruntime.session import open_session
from ptq4dm.errors import BackendError


@pytest.mark.parametrize(("operator", "domain"), [("NoSuchOperator", ""), ("Relu", "no.such.domain")])
def test_a_graph_that_is_refused_is_no_error_from_the_depths(operator: str, domain: str) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], domain=domain)], "graph", [x], [y])
    sets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=sets, ir_version=9)
    with pytest.raises(BackendError, match=rf"refuses the graph .*{operator}.*backend='simulated'"):
        open_session(model.SerializeToString())
