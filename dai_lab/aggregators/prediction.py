"""A rule that predicts what each client will send, and suspects those it cannot predict."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.aggregators.history import nothing, single, sound
from dai_lab.aggregators.seen import begun, judged
from dai_lab.core import ALONE, Aggregate, Context, Key, Rows, State, Vector, Visible

BLOCK = 2**14
"""Columns that are worked on at once, in float64."""


def fldetector(
    visible: Visible, context: Context = ALONE, *, window: int = 10, draws: int = 20
) -> Aggregate:
    """Drop the clients whose rows do not follow from their last ones and the model's move.

    An honest row changes with the model by its Hessian times the model's move, which is
    estimated from how the aggregate changed in the last ``window`` moves (L-BFGS). A client's
    suspicion is its share of all errors of prediction, averaged over the last ``window`` rounds. If
    the gap statistic finds more than one cluster of suspicions, those in the upper of two are
    dropped, and accused. All others count the same, whatever examples they claim.

    Until ``window`` rounds have been predicted, of which the third round is the first, this is
    the mean with equal weights. A client that was not there the round before is not predicted,
    so all should take part in every round: who comes every other round is never dropped. It
    cannot see liars who are as consistent as the honest, and until it starts liars bend what
    it learns from. The authors remove whom they find and train again from the start; here the
    round goes on without them, and they are predicted again in the next.

    Args:
        visible: What the server may see, each row of a single client; at least one finite row.
            Whom to drop is only asked where at least three clients were predicted.
        context: Must hold ``state``; the gap statistic draws from ``key``.
        window: Moves to estimate from and rounds to average over, at least 1.
        draws: Uniform references of the gap statistic, at least 1.

    Raises:
        ValueError: A row holds several clients, no model, or a knob is out of range.
        TooFew: No finite row.

    Source:
        Zhang et al. 2022, arXiv:2207.09209, section 4 and algorithms 1 and 2.
    """
    if min(window, draws) < 1:
        raise ValueError(
            f"aggregator.window and aggregator.draws must be at least 1, got {window} and {draws}"
        )
    clients, state = single("fldetector", visible), begun("fldetector", visible, context)
    rows, finite = sound("fldetector", visible)
    whose = [clients[one] for one in finite.tolist()]
    past = _Past(state)
    errors = past.errors(whose, rows)
    known = ~errors.isnan()
    if bool(errors.isinf().any()):
        errors = torch.where(known, errors.isinf().double(), errors)  # all else is nothing to that
    part = errors / errors.nansum().clamp_min(torch.finfo(torch.float64).tiny)
    unknown = rows.new_full((window,), torch.nan, dtype=torch.float64)
    scores = state.recall("aggregator/fldetector_scores", whose, unknown)
    scores = torch.cat([scores[:, 1:], part.unsqueeze(1)], dim=1)
    suspicion = scores.nanmean(1).nan_to_num(0.0)
    predicted = past.predicted + int(bool(known.any()))
    known = (~scores.isnan()).any(1)
    dropped = torch.zeros_like(known)
    if predicted >= window and int(known.sum()) >= 3:
        dropped[known] = _upper(suspicion[known], draws, context.key / "fldetector")
    shares = (~dropped).double() / (~dropped).sum()
    update = kernels.combine(rows, shares)
    memory = {
        **state.keep("aggregator/fldetector_scores", whose, scores),
        # Only who was there the round before can be predicted: all others are forgotten.
        **nothing(visible).keep("aggregator/fldetector_rows", whose, rows),
        **past.learned(state.params, update, window),
        "aggregator/fldetector_predicted": torch.tensor(predicted),
    }
    return judged(
        visible,
        update,
        finite,
        shares=shares,
        suspicion=suspicion,
        suspects=dropped,
        memory=memory,
    )


class _Past:
    """What is remembered of the rounds before: the model, the aggregate, and how both moved."""

    def __init__(self, state: State) -> None:
        known = {
            what: state.memory.get(f"aggregator/fldetector_{what}")
            for what in ("params", "update", "moves", "changes", "predicted")
        }
        self.state = state
        self.params, self.update = known["params"], known["update"]
        self.moves, self.changes = known["moves"], known["changes"]
        self.predicted = 0 if known["predicted"] is None else int(known["predicted"])

    def errors(self, clients: list[int], rows: Rows) -> Float64[Tensor, "_"]:
        """Say how far each row is from its prediction, NaN where there is none."""
        if self.params is None or self.moves is None or self.changes is None:
            return rows.new_full((len(rows),), torch.nan, dtype=torch.float64)
        bend = hessian_product(self.moves, self.changes, self.state.params - self.params)
        never = torch.full_like(rows[0], torch.nan)
        last = self.state.recall("aggregator/fldetector_rows", clients, never)
        total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for at in range(0, rows.shape[1], BLOCK):
            some = slice(at, at + BLOCK)
            wrong = last[:, some].double() + bend[some].double() - rows[:, some].double()
            total += wrong.square().sum(1)
        return total.sqrt()

    def learned(self, params: Vector, update: Vector, window: int) -> dict[str, Tensor]:
        """Return the memories after this round, of at most ``window`` moves."""
        memory = {"params": params.clone(), "update": update.clone()}
        if self.params is not None and self.update is not None:
            move, change = params - self.params, update - self.update
            whole = bool(move.isfinite().all()) and bool(change.isfinite().all())
            # A model that stood still says nothing about how anything changes with it.
            if whole and bool(move.any()):
                for name, old, new in (
                    ("moves", self.moves, move),
                    ("changes", self.changes, change),
                ):
                    kept = new[None, :][:0] if old is None else old[max(0, len(old) + 1 - window) :]
                    memory[name] = torch.cat([kept, new[None, :]])
        return {f"aggregator/fldetector_{what}": one for what, one in memory.items()}


def hessian_product(moves: Rows, changes: Rows, vector: Vector) -> Vector:
    """Multiply a vector by the L-BFGS estimate of what turns ``moves`` into ``changes``.

    Args:
        moves: Differences of points, oldest first; none is zero.
        changes: The differences of gradients that belong to them.
        vector: What to multiply.

    Source:
        Byrd, Nocedal and Schnabel 1994, Mathematical Programming 63, theorem 2.3 (compact form
        of BFGS started from a multiple of the identity).
    """
    basis = torch.cat([moves, changes, vector.unsqueeze(0)])
    count = len(moves)
    inner = torch.zeros(len(basis), len(basis), dtype=torch.float64, device=basis.device)
    for block in basis.split(BLOCK, dim=1):
        inner += block.double() @ block.double().T
    lengths, mixed = inner[:count, :count], inner[:count, count:-1]
    start = mixed[-1, -1] / lengths[-1, -1]
    lower = mixed.tril(-1)
    middle = torch.cat(
        [
            torch.cat([start * lengths, lower], dim=1),
            torch.cat([lower.T, -mixed.diagonal().diag()], dim=1),
        ]
    )
    right = torch.cat([start * inner[:count, -1], inner[count:-1, -1]])
    # Rows differ in scale by orders; moves may depend on each other, as they must if they are
    # more than the parameters.
    scale = middle.abs().amax(1).clamp_min(torch.finfo(torch.float64).tiny).rsqrt()
    even = scale.unsqueeze(1) * middle * scale
    solved = scale * (torch.linalg.pinv(even, hermitian=True, rtol=1e-13) @ (scale * right))
    weights = torch.cat([-start * solved[:count], -solved[count:], start.reshape(1)])
    return kernels.combine(basis, weights)


def _upper(scores: Float64[Tensor, "m"], draws: int, key: Key) -> Bool[Tensor, "m"]:
    """Return the upper of two clusters, or nobody if the gap statistic finds but one."""
    spread = scores.max() - scores.min()
    none = torch.zeros_like(scores, dtype=torch.bool)
    if not bool(spread > 0):
        return none
    even = (scores - scores.min()) / spread
    one, two, cut = _clusters(even.unsqueeze(0))
    drawn = torch.rand(draws, len(even), dtype=torch.float64, generator=key.stream())
    ones, twos, _ = _clusters(drawn.to(even.device))
    gap_one = ones.log().mean() - one.log().squeeze()
    gap_two = twos.log().mean() - two.log().squeeze()
    doubt = twos.log().std(correction=0) * (1 + 1 / draws) ** 0.5
    if bool(gap_one >= gap_two - doubt):
        return none
    order = even.argsort(stable=True)
    none[order[int(cut) :]] = True
    return none


def _clusters(
    scores: Float[Tensor, "k m"],
) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"], Tensor]:
    """Return squared deviations in one and in the best two clusters, and where those part.

    On a line the best two clusters are a cut of the sorted numbers, so 2-means is exact.
    """
    ranked = scores.sort(dim=1).values
    ranked = ranked - ranked.mean(1, keepdim=True)
    count = ranked.shape[1]
    sums, squares = ranked.cumsum(1), ranked.square().sum(1)
    below = torch.arange(1, count, device=scores.device)
    left = sums[:, :-1]
    # Centered at 0, what two clusters explain is the squared sum of one times 1/k + 1/(m - k).
    explained = left.square() * (1 / below + 1 / (count - below))
    best, at = explained.max(dim=1)
    return squares, (squares - best).clamp_min(0), at + 1
