"""Rewrites of a converted graph that leave every number as it is."""

from typing import TYPE_CHECKING

from ptq4dm.backends.cpu.openvino.layer import TRUE_DIVISION

if TYPE_CHECKING:
    import openvino as ov

RESIZING = ("Interpolate", "Pad")


def quantize_before_resizing(model: "ov.Model") -> None:
    """Move a FakeQuantize in front of the nearest-neighbour upsampling or zero padding that feeds it.

    Copying integers and copying the numbers they stand for commute, and 0.0 is an integer exactly; upsampling by two
    is then done on a quarter of the bytes, and the padding becomes the convolution's own.
    """
    for quantizer in [node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]:
        first = start_of(quantizer)
        resize = first.input_value(0).get_node()
        if not copies(resize) or len(resize.output(0).get_target_inputs()) > 1:
            continue
        targets = quantizer.output(0).get_target_inputs()
        first.input(0).replace_source_output(resize.input_value(0))
        resize.input(0).replace_source_output(quantizer.output(0))
        for target in targets:
            target.replace_source_output(resize.output(0))
    model.validate_nodes_and_infer_types()


def start_of(quantizer: "ov.Node") -> "ov.Node":
    """The node at which quantizing begins: the rounding in front of it, or the division (if not by 1) before that."""
    first = quantizer
    for kind in ("Round", "Divide"):
        before = first.input_value(0).get_node()
        if before.get_type_name() == kind and (kind == "Round" or by_one_number(before)):
            first = before
    return first


def by_one_number(division: "ov.Node") -> bool:
    """Whether a division is the layer's own, by one scale for all channels (of a smoothed layer there are several)."""
    return TRUE_DIVISION in division.get_rt_info() and not list(division.input_value(1).get_shape())


def copies(node: "ov.Node") -> bool:
    """Whether a node only copies its input to a larger map (and adds zeros)."""
    if node.get_type_name() not in RESIZING:
        return False
    attributes = node.get_attributes()
    if node.get_type_name() == "Interpolate":
        return attributes.get("mode") == "nearest"
    fill = node.input_value(3).get_node() if node.get_input_size() > 3 else None
    zero = fill is None or (fill.get_type_name() == "Constant" and not fill.get_data().any())  # type: ignore[attr-defined]  # a Constant has it
    return attributes.get("pad_mode") == "constant" and zero
