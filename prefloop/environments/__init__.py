"""Environments: what answers a policy in a conversation of many turns."""

from prefloop.environments.environment import Environment, Messages, Opening, Step

__all__ = ["Environment", "Messages", "Opening", "Step"]
