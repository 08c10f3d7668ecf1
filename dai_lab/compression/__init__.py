"""What arrives of rows that were compressed on their way.

A part returns rows as the server decodes them, and counts ``bytes`` on this wire format. For a
row of ``d`` numbers, each of 4 bytes (rows are float32), one client sends:

=============  =================================================================================
``dense``      ``d`` numbers
``top_k``      ``k`` numbers, ``k`` positions of ``ceil(log2 d)`` bits
``random_k``   ``k`` numbers, and the 8 bytes of the seed their positions are drawn from
``qsgd``       the row's norm, ``d`` whole numbers of ``ceil(log2(2 levels + 1))`` bits
``sign``       ``d`` bits and a scale; unscaled, ``d`` bits and one that says whether it is finite
``power_sgd``  ``r (m + n)`` numbers for each ``m x n`` matrix, ``r = min(rank, m, n)``; 1 number
               for each of the others
=============  =================================================================================

Bits are packed and rounded up to whole bytes once for each client. Nothing is sent but this: no
header, no entropy code, and no change to the dense format where that would be shorter. Secure
aggregation sums decoded rows; whether masks and a format go together is not asked. What a row
holds beside parameters, such as ``local=fednova``'s count of steps, is compressed like them.

A row with a NaN or an infinity arrives as one that is not finite, at the usual price, and touches
no other row.
"""

from dai_lab.compression.feedback import error_feedback
from dai_lab.compression.low_rank import power_sgd
from dai_lab.compression.plain import dense
from dai_lab.compression.quantized import qsgd, sign
from dai_lab.compression.sparse import random_k, top_k

__all__ = ["dense", "error_feedback", "power_sgd", "qsgd", "random_k", "sign", "top_k"]
