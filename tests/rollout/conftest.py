"""Shapes and types at the boundaries of `prefloop.rollout` are checked while these tests run."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# A whole number is fine where a float is asked for.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

install_import_hook("prefloop.rollout", f"{__name__}.checked")
