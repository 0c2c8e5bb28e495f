"""Losses and estimators beside those of other packages, in an environment of their own."""
