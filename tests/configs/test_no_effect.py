"""Settings of the commands about data that would change nothing are refused, with the way out."""

from typing import Any

import pytest

from prefloop.configs.agreement import AgreementConfig
from prefloop.configs.label import ChatAnswers, LabelExportConfig, LabelImportConfig, ServeConfig
from prefloop.configs.select import SelectConfig
from prefloop.errors import InputError


@pytest.mark.parametrize(
    ("config", "useless", "useful", "told"),
    [
        (ServeConfig, {"answers": ChatAnswers(temperature=0.5)}, {"chat": ("m",)}, "chat names no model"),
        (LabelExportConfig, {"out": "o.jsonl", "heldout": 0.3}, {"part": "train"}, "part is all"),
        (
            AgreementConfig,
            {"store": "s", "aggregate": "majority"},
            {"labels": "l.jsonl"},
            "labels names no file",
        ),
        (AgreementConfig, {"store": "s", "soft": False}, {"labels": "l.jsonl"}, "labels names no file"),
        (SelectConfig, {"store": "s", "overlap": 2}, {"project": "P"}, "project is empty"),
        (SelectConfig, {"store": "s", "uniform": 0.5}, {"strategy": "information"}, "strategy is uniform"),
        (LabelImportConfig, {"source": "f", "gold_share": 0.2}, {"gold": True}, "gold is off"),
    ],
)
def test_a_setting_without_effect_is_refused(
    config: Any, useless: dict[str, Any], useful: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        config(**useless)
    config(**useless, **useful)
