"""Inception-style score: pictures should look like some class each, and like many classes together.

Salimans et al., "Improved Techniques for Training GANs", NeurIPS 2016, sec. 4 (https://arxiv.org/abs/1606.03498)::

    score = exp( mean_x KL( p(y | x) || p(y) ) ),      p(y) = mean_x p(y | x)

On a classifier other than Inception it is another number with another scale: name the classifier.
"""

import numpy as np

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.bootstrap import Statistic


def softmax(logits: np.ndarray) -> np.ndarray:
    """p(y | x) (n, classes) from logits, float64."""
    logits = np.asarray(logits, dtype=np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def class_score(logits: np.ndarray) -> float:
    """The score of all pictures (one split). Raises EvaluationError if there are none."""
    return class_score_statistic(logits)(np.ones(len(logits)))


def class_score_splits(logits: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over consecutive splits of the pictures, as published tables give it."""
    if not 1 <= splits <= len(logits):
        raise EvaluationError(f"splits = {splits} of {len(logits)} pictures: at least 1, at most one a picture")
    scores = [class_score(part) for part in np.array_split(np.asarray(logits), splits)]
    return float(np.mean(scores)), float(np.std(scores))


def class_score_statistic(logits: np.ndarray) -> Statistic:
    """The score of resampled pictures, as a function of how often each is drawn."""
    logits = np.asarray(logits)
    if logits.ndim != 2 or len(logits) < 1 or not np.isfinite(logits).all():
        raise EvaluationError(f"a score needs finite logits (n, classes) of at least 1 picture, got {logits.shape}")
    probabilities = softmax(logits)
    negative_entropy = plogp(probabilities).sum(axis=1)

    def statistic(counts: np.ndarray) -> float:
        weights = counts / counts.sum()
        return float(np.exp(weights @ negative_entropy - plogp(weights @ probabilities).sum()))

    return statistic


def plogp(p: np.ndarray) -> np.ndarray:
    """p log p, with 0 log 0 = 0."""
    return p * np.log(np.where(p > 0.0, p, 1.0))
