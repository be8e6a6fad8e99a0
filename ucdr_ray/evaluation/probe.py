"""Linear probes: what can be read off an embedding by a straight cut."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

_FOLDS = 5
_MOST = 10_000  # vectors; more change the figure by less than its spread over seeds


def probe(vectors: np.ndarray, kinds: Sequence[str], seed: int = 0) -> float | None:
    """Share of vectors whose kind a linear classifier tells, taught by the others: five folds, kinds weighted equally.

    With K kinds, 1 / K is what guessing gives. None: fewer than two kinds have five vectors.

    Args:
        vectors: (N, D); of more than 10,000 a sample is taken.
        kinds: (N,) what each is; kinds with fewer than five vectors, in all or in the sample, are left out.
    """
    _, numbers, counts = np.unique(np.asarray(kinds), return_inverse=True, return_counts=True)
    kept = np.flatnonzero(counts[numbers] >= _FOLDS)
    if len(kept) > _MOST:
        kept = np.random.default_rng(seed).choice(kept, _MOST, replace=False)
        kept = kept[np.bincount(numbers[kept], minlength=len(counts))[numbers[kept]] >= _FOLDS]
    if len(np.unique(numbers[kept])) < 2:
        return None
    x, y = np.asarray(vectors, np.float64)[kept], numbers[kept]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=100, class_weight="balanced"))
    # One thread: the products are small, and on busy cores several wait for each other most of the time.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits of the weights change nothing
        found = cross_val_predict(model, x, y, cv=StratifiedKFold(_FOLDS, shuffle=True, random_state=seed))
    return float(np.mean([np.mean(found[y == kind] == kind) for kind in np.unique(y)]))
