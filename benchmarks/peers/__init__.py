"""The tools that ptq4dm is measured beside, one file each; imported with `benchmarks` on the path.

A tool's own packages are imported only when it is asked to work.
"""

from typing import Final

from peers import floats, nncf_int8, onnxruntime_int8, ptq4dm_int8, quanto_int8, torchao_int8
from peers.peer import Peer

EAGER: Final = "eager"
OURS: Final = "ptq4dm"
FAST: Final = "ptq4dm-fast"
PEERS: Final[dict[str, Peer]] = {
    EAGER: floats.EAGER,
    "compiled": floats.COMPILED,
    "openvino": floats.OPENVINO,
    OURS: ptq4dm_int8.PEER,
    FAST: ptq4dm_int8.FAST,
    "nncf-default": nncf_int8.DEFAULT,
    "nncf": nncf_int8.MIXED,
    "onnxruntime-default": onnxruntime_int8.DEFAULT,
    "onnxruntime": onnxruntime_int8.PER_CHANNEL,
    "quanto": quanto_int8.PEER,
    "torchao": torchao_int8.PEER,
    "torchao-compiled": torchao_int8.COMPILED,
}
