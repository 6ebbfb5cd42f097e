"""Which class a folder names for a pipeline or a network."""

import pytest
from diffusers import ConfigMixin, DDPMPipeline, DiffusionPipeline, ModelMixin, UNet2DModel
from tiny import tiny_unet

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.class_conditional import ClassConditionalDDPMPipeline
from ptq4dm.pipelines.classes import library_of, public_class


def test_the_public_class_or_the_nearest_that_it_is_derived_from():
    class Own(DDPMPipeline):
        """A user's."""

    unet = tiny_unet((8,))
    assert public_class(unet) is UNet2DModel
    assert public_class(Own(unet, None)) is DDPMPipeline and library_of(DDPMPipeline) == "diffusers"
    assert public_class(ClassConditionalDDPMPipeline(unet, None)) is ClassConditionalDDPMPipeline


@pytest.mark.parametrize("bases", [(DiffusionPipeline,), (ModelMixin, ConfigMixin)])
def test_what_all_are_derived_from_names_none(bases):
    with pytest.raises(ModelError, match=r"Own is no class of diffusers .*, nor derived from one, by which a folder"):
        public_class(type("Own", bases, {})())
