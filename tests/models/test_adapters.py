"""Models with and without adapters are told apart, and PEFT is not imported for those without."""

import subprocess
import sys

from torch import nn

from prefloop.models.adapters import adapter_layers, is_lora_linear


def test_a_stage_without_adapters_does_not_wait_for_peft():
    program = (
        "import sys, torch\n"
        "import prefloop.algorithms.ppo, prefloop.algorithms.prefer, prefloop.algorithms.reward, prefloop.rollout\n"
        "from prefloop.models.adapters import adapter_layers, is_lora_linear\n"
        "layer = torch.nn.Linear(1, 1)\n"
        "assert adapter_layers(layer) == [] and not is_lora_linear(layer)\n"
        "print('peft' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_layers_with_adapters_are_found():
    from peft import LoraConfig, get_peft_model

    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    get_peft_model(model, LoraConfig(target_modules=["0"]))  # pyright: ignore[reportArgumentType]
    assert adapter_layers(model) == [model[0]]
    assert is_lora_linear(model[0])
    assert not is_lora_linear(model[2])
