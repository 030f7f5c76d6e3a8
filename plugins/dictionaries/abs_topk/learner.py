"""AbsTopKLearner: batch-topk with signed latents."""

from ..batch_topk.learner import BatchTopKLearner


class AbsTopKLearner(BatchTopKLearner):
    """Fits and opens dictionaries of signed latents: the k x batch largest by size survive, of either sign.

    As in AbsTopK (Zhu et al. 2025, arXiv:2510.00404), over the flattened batch; everything else is batch-topk's.
    """

    name = "abs-topk"
    signed = True
