"""FrozenDecoderLearner: batch-topk whose decoder stays as it was drawn."""

from ..batch_topk.learner import BatchTopKLearner


class FrozenDecoderLearner(BatchTopKLearner):
    """Fits the encoder, the biases and the threshold to random directions of norm 1 that are never trained.

    The "frozen decoder" baseline of arXiv:2602.14111; Heap et al. 2025 (arXiv:2501.17727) randomise the model instead.
    """

    name = "frozen-decoder"
    frozen_decoder = True
