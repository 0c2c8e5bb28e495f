"""A loss of one's own: DPO that stops pulling on a comparison once its margin is beyond a limit.

    cd examples && prefloop prefer --loss my_loss:cautious --settings limit=2 --model MODEL --data comparisons.jsonl --out runs/cautious

Parameters without a default are quantities that the trainer provides by name; keywords with one are settings.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def cautious(policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor,
             *, beta: float = 0.1, limit: float = 3.0) -> Tensor:  # fmt: skip
    """-log σ(min(βh, limit)), one number a comparison."""
    margin = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
    return -logsigmoid(margin.clamp(max=limit))
