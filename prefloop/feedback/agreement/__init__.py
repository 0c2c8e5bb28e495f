"""How far labels can be trusted: agreement, annotator models, aggregation, noise ceiling. NumPy only; the store is read elsewhere."""

from prefloop.feedback.agreement.aggregate import Aggregated, aggregate, disagreements, preference
from prefloop.feedback.agreement.annotator_models import AnnotatorFit, AnnotatorModel, fit_annotators
from prefloop.feedback.agreement.ceiling import NoiseCeiling, noise_ceiling
from prefloop.feedback.agreement.chance import (
    Agreement,
    Metric,
    cohen_kappa,
    fleiss_kappa,
    half_credit_agreement,
    krippendorff_alpha,
    raw_agreement,
)
from prefloop.feedback.agreement.drift import Drift, blocks, drift
from prefloop.feedback.agreement.labels import MISSING, Labels, make_labels
from prefloop.feedback.agreement.people import (
    AnnotatorFigures,
    PairChoice,
    Share,
    agreement_matrix,
    figures,
    leave_one_out,
)

__all__ = [
    "MISSING",
    "Aggregated",
    "Agreement",
    "AnnotatorFigures",
    "AnnotatorFit",
    "AnnotatorModel",
    "Drift",
    "Labels",
    "Metric",
    "NoiseCeiling",
    "PairChoice",
    "Share",
    "aggregate",
    "agreement_matrix",
    "blocks",
    "cohen_kappa",
    "disagreements",
    "drift",
    "figures",
    "fit_annotators",
    "fleiss_kappa",
    "half_credit_agreement",
    "krippendorff_alpha",
    "leave_one_out",
    "make_labels",
    "noise_ceiling",
    "preference",
    "raw_agreement",
]
