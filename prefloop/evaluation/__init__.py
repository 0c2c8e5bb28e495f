"""Estimates with intervals, and the report. What runs models is in `evaluate`; everything exported here starts without torch."""

from prefloop.evaluation.intervals import (
    Estimate,
    bootstrap_mean,
    exactly,
    mean_interval,
    paired_difference,
    proportion_interval,
    rate_interval,
    ratio_interval,
)
from prefloop.evaluation.report import ReportData, build_report, collect, write_report
from prefloop.evaluation.reward_model_quality import RewardModelQuality, best_of_n, reward_model_quality
from prefloop.evaluation.summary import (
    EvaluatedCompletion,
    EvaluatedPolicy,
    Evaluation,
    MeasuredData,
    PolicySummary,
    RewardModelSummary,
    StageTime,
    Summary,
    read_evaluation,
    read_summary,
    write_evaluation,
    write_summary,
)
from prefloop.evaluation.text_statistics import TextStatistics, policy_alarms, text_statistics
from prefloop.evaluation.win_rate import win_matrix, win_matrix_of_judgements, win_rate, win_rate_of_verdicts

__all__ = [
    "Estimate",
    "EvaluatedCompletion",
    "EvaluatedPolicy",
    "Evaluation",
    "MeasuredData",
    "PolicySummary",
    "ReportData",
    "RewardModelQuality",
    "RewardModelSummary",
    "StageTime",
    "Summary",
    "TextStatistics",
    "best_of_n",
    "bootstrap_mean",
    "build_report",
    "collect",
    "exactly",
    "mean_interval",
    "paired_difference",
    "policy_alarms",
    "proportion_interval",
    "rate_interval",
    "ratio_interval",
    "read_evaluation",
    "read_summary",
    "reward_model_quality",
    "text_statistics",
    "win_matrix",
    "win_matrix_of_judgements",
    "win_rate",
    "win_rate_of_verdicts",
    "write_evaluation",
    "write_report",
    "write_summary",
]
