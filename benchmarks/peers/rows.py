"""The rows of the tables: every tool opened on what it shipped, deployed and simulated, and measured in one run."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peers import EAGER, FAST, OURS
from peers.measure import Effort, fidelity, fidelity_row, is_finite, speed_row, times
from peers.peer import Deploy, Deployed, Peer, Subject, require, shipped_bytes
from ptq4dm.errors import EvaluationError, PTQ4DMError
from ptq4dm.evaluation.fidelity import CallErrors
from ptq4dm.quantization.quantized_model import example_call

Rows = dict[str, dict[str, Any]]
SIMULATED = ", simulated"


def measured(
    peers: Mapping[str, Peer], subject: Subject, folders: Mapping[str, Path], effort: Effort, capped: bool, timed: bool
) -> dict[str, Rows]:
    """The tables `rows` (as deployed) and `simulated`, each by the tools' names; a tool that cannot be run here says
    why. capped: OpenVINO's own float graph is wrong here, so what runs it is not compared. timed: measure speed, too.
    """
    example = example_call(subject.pipeline, effort.batch)
    x_t, timestep = example.args
    rows: Rows = {name: described(peers[name]) for name in folders}
    simulations = {name: simulation for name in folders if (simulation := peers[name].simulation)}
    simulated: Rows = {name: described(peers[name]) | {"how": item.how} for name, item in simulations.items()}

    def open_with(deploy: Deploy, name: str) -> Deployed:
        require(peers[name])
        return deploy(subject, folders[name], x_t, timestep)

    deployed = opened(rows, lambda name: open_with(peers[name].deploy, name))
    in_float = opened(simulated, lambda name: nothing_in_int8(open_with(simulations[name].deploy, name)))
    wrong = {name for name in folders if capped and peers[name].stock_openvino}
    compared = {name: item for name, item in deployed.items() if name not in wrong}
    compared |= {name + SIMULATED: item for name, item in in_float.items() if name not in wrong}
    errors = fidelity(subject, compared, effort, sys.stderr.isatty())
    for name, item in deployed.items():
        rows[name] |= {
            "int8_share": item.int8_share,
            "executed": item.executed,
            "bytes": shipped_bytes(folders[name] / peers[name].part),
            **compared_row(errors, name, OURS),
        }
    for name, item in in_float.items():
        simulated[name] |= {"executed": item.executed, **compared_row(errors, name + SIMULATED, OURS + SIMULATED)}
    if timed:
        seconds = times(deployed, x_t, timestep, effort.rounds, sys.stderr.isatty())
        for name in deployed:
            rows[name] |= speed_row(seconds[name], seconds[EAGER], seconds[OURS])
    return {"rows": rows, "simulated": simulated}


def described(peer: Peer) -> dict[str, Any]:
    """What a row says of its tool."""
    return {"title": peer.title, "settings": peer.settings, "float": peer.float}


def opened(rows: Rows, open_one: Callable[[str], Deployed]) -> dict[str, Deployed]:
    """The tools that can be run here; the row of any other gets the reason."""
    found: dict[str, Deployed] = {}
    for name, row in rows.items():
        try:
            found[name] = open_one(name)
        except PTQ4DMError as error:
            if name in (EAGER, OURS, FAST):  # what others are measured against, and what is ours
                raise
            row["reason"] = str(error)
    return found


def nothing_in_int8(item: Deployed) -> Deployed:
    """The network itself. Raises EvaluationError if its runtime shows INT8: then it simulates nothing."""
    if item.int8_share:
        raise EvaluationError(f"{100 * item.int8_share:.1f} % of its multiply-adds still run in INT8: {item.executed}")
    return item


def compared_row(errors: Mapping[str, CallErrors], name: str, ours: str) -> dict[str, Any]:
    """Fidelity where the network was compared and answered with numbers."""
    finite = name not in errors or is_finite(errors[name])
    fit = name in errors and finite and ours in errors
    return {"fidelity": fidelity_row(errors[name], errors[ours]) if fit else None, "finite": finite}
