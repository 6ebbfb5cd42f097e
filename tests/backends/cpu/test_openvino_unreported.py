"""Our conversions tell OpenVINO's maker nothing: no fork of the process for each kind of operator, no network."""

import time

import pytest
import torch
from torch import nn

from ptq4dm.backends.cpu.openvino.float_baseline import compile_float
from ptq4dm.pipelines.denoiser import Call

ov = pytest.importorskip("openvino")
telemetry = pytest.importorskip("openvino_telemetry")
from openvino_telemetry.backend.backend_ga4 import GA4Backend  # noqa: E402


@pytest.fixture
def sent(monkeypatch):
    """What would leave this machine; a user who agrees to it."""
    found = []
    monkeypatch.setattr(GA4Backend, "send", lambda self, message: found.append(message))
    ov.convert_model(nn.SiLU(), example_input=torch.zeros(1, 2))  # makes the one `Telemetry`
    monkeypatch.setattr(telemetry.Telemetry(), "consent", True)
    wait_until_sent()
    found.clear()
    return found


def wait_until_sent():
    """Messages are sent by threads."""
    end = time.monotonic() + 30
    while telemetry.Telemetry().sender.queue_size and time.monotonic() < end:
        time.sleep(0.01)


def test_a_conversion_of_ours_reports_nothing_and_one_of_the_users_own_is_as_ever(sent):
    network, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU()).eval(), torch.zeros(2, 3, 5, 5)
    assert compile_float(network, Call((x,))) is not None
    wait_until_sent()
    assert sent == []
    ov.convert_model(network, example_input=x)
    wait_until_sent()
    assert sent
