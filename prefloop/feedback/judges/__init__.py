"""AI judges: any OpenAI-compatible model as an annotator, with its costs, failures and biases in the open."""

from prefloop.feedback.judges.asking import Failures, ask_all
from prefloop.feedback.judges.cache import Cached
from prefloop.feedback.judges.constitution import (
    Principle,
    constitution_sha256,
    drawn_order,
    read_constitution,
)
from prefloop.feedback.judges.endpoint import Endpoint, Limits, RequestForm, Spent, cost_of, open_endpoint
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
from prefloop.feedback.judges.model import AnswersByProbability, CallFailed, ChatModel, OverBudget, Reply
from prefloop.feedback.judges.rlaif import (
    DirectScorer,
    Revision,
    ScoreInjection,
    revise,
    revision_over_original,
    try_revision_injection,
    try_score_injection,
)
from prefloop.feedback.judges.verdicts import Unreadable

__all__ = [
    "AnswersByProbability",
    "Cached",
    "CallFailed",
    "ChatModel",
    "DirectScorer",
    "Endpoint",
    "Failures",
    "InjectionResult",
    "JudgeReport",
    "JudgeSettings",
    "Limits",
    "OverBudget",
    "PairJudge",
    "Principle",
    "Reply",
    "RequestForm",
    "Revision",
    "ScoreInjection",
    "Spent",
    "Unreadable",
    "Verdict",
    "ask_all",
    "constitution_sha256",
    "cost_of",
    "drawn_order",
    "judge_items",
    "keep_in",
    "open_endpoint",
    "read_constitution",
    "revise",
    "revision_over_original",
    "try_injection",
    "try_revision_injection",
    "try_score_injection",
]
