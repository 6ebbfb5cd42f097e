"""diffusers knows ptq4dm after `import ptq4dm`, in any order; and what it says before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers.quantizers import auto

import ptq4dm
from ptq4dm.errors import BackendWarning
from ptq4dm.integrations.config import PTQ4DMConfig
from ptq4dm.integrations.quantizer import PTQ4DMQuantizer
from ptq4dm.quantization.artifact import FORMAT_VERSION
from ptq4dm.registration import METHOD, TELLING, write_mappings


def python(code):
    """Run code in a process of its own: (exit code, what it printed)."""
    ours = {**os.environ, "PYTHONPATH": str(Path(ptq4dm.__file__).parents[1])}  # this one, whichever is installed
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ours)
    return done.returncode, done.stdout or done.stderr


@pytest.mark.parametrize("name", [METHOD, TELLING])  # of artifacts made before and now
def test_diffusers_still_reads_its_two_mapping_dicts(name):
    """What from_pretrained calls: DiffusersAutoQuantizer, with nothing but diffusers' own code between."""
    header = {"quant_method": name, "format_version": FORMAT_VERSION, "arithmetic": "float-out", "layers": ["a"]}
    config = auto.DiffusersAutoQuantizer.merge_quantization_configs(header, None)
    assert type(config) is PTQ4DMConfig and config.to_dict() == header
    assert type(auto.DiffusersAutoQuantizer.from_config(config, pre_quantized=True)) is PTQ4DMQuantizer
    assert auto.AUTO_QUANTIZER_MAPPING[name] is PTQ4DMQuantizer
    assert auto.AUTO_QUANTIZATION_CONFIG_MAPPING[name] is PTQ4DMConfig
    assert config.quant_method.value == "ptq4dm"  # from_pretrained asks for it


def test_a_diffusers_without_the_dicts_is_told_of():
    class Changed:
        AUTO_QUANTIZER_MAPPING = None

    with pytest.warns(BackendWarning, match="no AUTO_QUANTIZER_MAPPING and AUTO_QUANTIZATION_CONFIG_MAPPING"):
        write_mappings(Changed)


def test_import_is_light_and_registers_when_diffusers_comes_later():
    code, said = python(
        "import sys, ptq4dm; assert not {'torch', 'diffusers'} & set(sys.modules); "
        "from diffusers.quantizers import auto; print(sorted(set(auto.AUTO_QUANTIZER_MAPPING) & {'ptq4dm', 'gguf'}))"
    )
    assert (code, said.strip().splitlines()[-1]) == (0, "['gguf', 'ptq4dm']"), said


def test_before_ptq4dm_is_imported_the_error_names_it_and_afterwards_it_loads(folder):
    code, said = python(
        f"""
import diffusers
def load():
    return diffusers.DiffusionPipeline.from_pretrained({str(folder)!r})
try:
    load()
except ValueError as error:
    print("refused:", error)
import ptq4dm
print(type(load().unet.mid_block.attentions[0].to_q).__name__)
"""
    )
    assert code == 0, said
    assert "refused: Unknown quantization type, got ptq4dm (`import ptq4dm` before loading; pip install ptq4dm)" in said
    assert said.strip().splitlines()[-1] == "QuantizedLinear"


def test_the_config_can_be_imported_first():
    code, said = python("from ptq4dm import PTQ4DMConfig; import diffusers; print(PTQ4DMConfig('x').calibrated)")
    assert (code, said.strip().splitlines()[-1]) == (0, "x"), said
