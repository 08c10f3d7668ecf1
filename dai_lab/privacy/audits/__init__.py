"""What can be learned from what leaves a client, in numbers with intervals."""

from dai_lab.privacy.audits.curves import (
    Rate,
    Roc,
    advantage,
    auc,
    balanced_accuracy,
    draw_roc,
    exact,
    roc,
    tpr_at,
    tprs_at,
)
from dai_lab.privacy.audits.inference import (
    Guesses,
    attribute_inference,
    attribute_losses,
    imputed,
    property_inference,
    property_shards,
    source_inference,
    spelled,
)
from dai_lab.privacy.audits.membership import (
    by_loss,
    empirical_epsilon,
    epsilon_bound,
    leave_one_out,
    lira,
)
from dai_lab.privacy.audits.one_run import Bound, audited, guessed, lower_bound, p_value
from dai_lab.privacy.audits.shadows import Shadows, confidences, halves, losses

__all__ = [
    "Bound",
    "Guesses",
    "Rate",
    "Roc",
    "Shadows",
    "advantage",
    "attribute_inference",
    "attribute_losses",
    "auc",
    "audited",
    "balanced_accuracy",
    "by_loss",
    "confidences",
    "draw_roc",
    "empirical_epsilon",
    "epsilon_bound",
    "exact",
    "guessed",
    "halves",
    "imputed",
    "leave_one_out",
    "lira",
    "losses",
    "lower_bound",
    "p_value",
    "property_inference",
    "property_shards",
    "roc",
    "source_inference",
    "spelled",
    "tpr_at",
    "tprs_at",
]
