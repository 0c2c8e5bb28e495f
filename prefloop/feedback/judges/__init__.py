"""AI judges: any OpenAI-compatible model as an annotator, with its costs, failures and biases in the open."""

from prefloop.feedback.judges.cache import Cached
from prefloop.feedback.judges.endpoint import Endpoint, Limits, Spent
from prefloop.feedback.judges.judge import (
    InjectionResult,
    JudgeReport,
    JudgeSettings,
    PairJudge,
    Verdict,
    judge_items,
    keep_in,
    try_injection,
)
from prefloop.feedback.judges.model import CallFailed, ChatModel, OverBudget, Reply
from prefloop.feedback.judges.rlaif import DirectScorer, Revision, revise, revision_over_original
from prefloop.feedback.judges.verdicts import Unreadable

__all__ = [
    "Cached",
    "CallFailed",
    "ChatModel",
    "DirectScorer",
    "Endpoint",
    "InjectionResult",
    "JudgeReport",
    "JudgeSettings",
    "Limits",
    "OverBudget",
    "PairJudge",
    "Reply",
    "Revision",
    "Spent",
    "Unreadable",
    "Verdict",
    "judge_items",
    "keep_in",
    "revise",
    "revision_over_original",
    "try_injection",
]
