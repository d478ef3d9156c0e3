"""Configurations of pretraining and fine-tuning at their smoke size, on one device and eight."""

import pytest

from tests.stages.smoke import SUPERVISED, same_losses_on_one_and_eight_devices


@pytest.mark.parametrize("name", SUPERVISED)
def test_smoke_gives_the_same_losses_on_one_and_eight_devices(name, tmp_path, launch):
    same_losses_on_one_and_eight_devices(name, tmp_path, launch)
