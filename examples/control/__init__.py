"""Reinforcement learning on Gymnasium's control tasks, with the losses and estimators that the language-model stages use."""
