"""Exponential moving average of a policy's weights."""

from collections.abc import Mapping

from torch import Tensor, nn

from prefloop.models.roles import Policy
from prefloop.runtime.dealt import restore


class MovingAverage:
    """After each update m <- decay m + (1 - decay) w, in float32."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.values = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}

    def update(self) -> None:
        """Take the weights in as they are now."""
        for name, parameter in self._parameters.items():
            self.values[name].lerp_(parameter.detach().float(), 1 - self._decay)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Go on from saved values."""
        restore(values, self.values)

    def of(self, policy: Policy) -> dict[str, Tensor]:
        """The policy's weights by name, with the average instead of those that are averaged."""
        averaged = {id(parameter): self.values[name] for name, parameter in self._parameters.items()}
        weights: dict[str, Tensor] = {}
        for name, tensor in policy.model.state_dict(keep_vars=True).items():
            weights[name] = (
                averaged[id(tensor)].to(tensor.dtype) if id(tensor) in averaged else tensor.detach()
            )
        return weights
