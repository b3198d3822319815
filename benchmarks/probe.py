"""Seconds of a linear probe: isoclr beside scikit-learn, on the same features, labels, folds and penalties, measured in one run. Prints one table.

    python benchmarks/probe.py            # about eight minutes on one thread
    python benchmarks/probe.py --quick    # small: whether it runs, not how fast

What is measured:
  data          generated: correlated features of 13,000 units by 512; labels that depend on them, with noise; 500 yes-or-no labels that 0.2 to 20 % of the units
                carry (evenly by the logarithm). Groups are like homology groups: most have one to three members, 10 have 30 to 300.
  ridge         a penalty of 13 chosen on the training part of each of 10 splits (85 % of whole groups) by squared error, then the fit and the predictions of the
                test part, float64. Ours leaves out each group in turn, thousands of them. scikit-learn: a `Ridge` of each penalty without each group, estimated
                from the refits of two groups a split; and, what is commonly done instead, of each penalty and each of 5 folds of whole groups. The same folds
                are given to ours as well. Each side standardises the features itself, once a split. Checked: both choose the same penalty by the folds, predict
                the same to 1e-6, and have the same errors on groups left out to 1e-6.
  multilabel    500 logistic regressions with one penalty on the first split, float32 on both sides: `OneVsRestClassifier(LogisticRegression(C=1 / penalty))` with its
                tolerance as it comes, n_jobs as many as threads. "loss" is the mean penalised log loss of the training part, in float64, of which both seek
                the least; where they differ by more than 1e-3 for any label the benchmark stops.
  whole grid    a penalty of 5 for each label by 3 folds of whole groups, then the fit. scikit-learn on every tenth label, times ten.

Sides take turns, split by split and penalty by penalty, in this process; a number is the sum of seconds, with the shortest and longest single turn. "ratio" is the other's seconds over ours.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Iterator

import numpy as np
import torch
from report import machine, page, seconds, timed
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from isoclr.probe.linear import LOGISTIC_PENALTIES, RIDGE_ALPHAS, group_folds, left_out_errors, principal_axes, ridge, with_ones
from isoclr.probe.multilabel import multilabel_fits, multilabel_logistic
from isoclr.probe.splits import group_splits

HERE = Path(__file__).parent


def homology_like_groups(n: int, rng: np.random.Generator) -> np.ndarray:
    "Most groups have one to three members, some are large."
    large = np.geomspace(30, 300, 10).astype(int) * n // 13_000
    small = rng.choice([1, 2, 3, 4, 8], n, p=[0.5, 0.3, 0.13, 0.05, 0.02])
    sizes = np.r_[np.maximum(large, 1), small]
    return rng.permutation(np.repeat(np.arange(len(sizes)), sizes)[:n])


def made(n: int, d: int, n_labels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    "Features (n, d), numbers (n,), labels (n, K) and groups (n,)."
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(n, d)) / np.sqrt(1 + np.arange(d) / 10)) @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    signal = StandardScaler().fit_transform(X) @ rng.normal(size=(d, n_labels + 1))
    signal /= signal.std(0)
    y, liking = signal[:, 0] + rng.normal(size=n), 2 * signal[:, 1:] + rng.logistic(size=(n, n_labels))
    frequency = np.exp(rng.uniform(np.log(0.002), np.log(0.2), n_labels))
    places = liking.argsort(0).argsort(0)
    return X, y, (places >= n - np.ceil(frequency * n)).astype(np.uint8), homology_like_groups(n, rng)


def row(measured: str, ours: list[float], other: list[float], note: str = "", goal: str = "", times: float = 1) -> dict:
    against = seconds([value * times for value in other]) + " scikit-learn" + (f" ({note})" if note else "")
    return {"measured": measured, "unit": "s", "ours": seconds(ours), "against": against, "ratio": f"{times * sum(other) / sum(ours):.3g}×", "goal": goal}


def grid_of_ridges(X: np.ndarray, y: np.ndarray, folds: np.ndarray, X_test: np.ndarray) -> tuple[np.ndarray, float]:
    "With scikit-learn: predictions of the test part, and the penalty chosen."
    scaler, errors = StandardScaler().fit(X), np.zeros(len(RIDGE_ALPHAS))
    Z = scaler.transform(X)
    for fold in np.unique(folds):
        rest, out = folds != fold, folds == fold
        Z_rest, y_rest, Z_out, y_out = Z[rest], y[rest], Z[out], y[out]
        for a, alpha in enumerate(RIDGE_ALPHAS):
            errors[a] += ((Ridge(alpha).fit(Z_rest, y_rest).predict(Z_out) - y_out) ** 2).sum()
    alpha = RIDGE_ALPHAS[int(errors.argmin())]
    return Ridge(alpha).fit(Z, y).predict(scaler.transform(X_test)), alpha


def some_refits(X: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> tuple[list[float], float]:
    "Seconds of fits of scikit-learn without a group, for two groups and every penalty; how far ours are from their errors."
    axes, Z, spent, apart = principal_axes(X), StandardScaler().fit_transform(X), [], 0.0
    errors = left_out_errors(axes(X), axes.power, y, groups)
    for group in np.random.default_rng(seed).choice(np.unique(groups), 2, replace=False):
        out = groups == group
        Z_rest, y_rest = Z[~out], y[~out]
        for alpha, found in zip(RIDGE_ALPHAS, errors):
            predicted, once = timed(lambda: Ridge(alpha).fit(Z_rest, y_rest).predict(Z[out]))
            spent.append(once)
            apart = max(apart, np.abs(y[out] - predicted - found[out]).max())
    return spent, apart


def ridge_rows(X: np.ndarray, y: np.ndarray, groups: np.ndarray, n_seeds: int) -> Iterator[dict]:
    by_group, by_fold, other, refits, apart, n_fits, n_groups = [], [], [], [], 0.0, 0, []
    for split in group_splits(groups, range(n_seeds)):
        part = X[split.train], y[split.train]
        folds = group_folds(groups[split.train], np.zeros((len(split.train), 0)), 5, split.seed)
        (predicted, alpha), spent = timed(lambda: ridge(*part, folds, X[split.test]))
        by_fold.append(spent)
        (expected, alpha_expected), spent = timed(lambda: grid_of_ridges(*part, folds, X[split.test]))
        other.append(spent)
        _, spent = timed(lambda: ridge(*part, groups[split.train], X[split.test]))
        by_group.append(spent)
        spent, errors_apart = some_refits(*part, groups[split.train], split.seed)
        refits += spent
        n_groups.append(len(np.unique(groups[split.train])))
        n_fits += n_groups[-1] * len(RIDGE_ALPHAS) + 1
        apart = max(apart, errors_apart, np.abs(predicted - expected).max())
        if alpha != alpha_expected or apart > 1e-6:
            raise AssertionError(f"seed {split.seed}: penalties {alpha} and {alpha_expected}, predictions {apart} apart")
    name = f"ridge, {n_seeds} splits × {len(RIDGE_ALPHAS)} penalties"
    each = f"{name} × {min(n_groups):,}–{max(n_groups):,} groups left out"
    yield row(f"{each}; at most {apart:.0e} apart", by_group, [n_fits * float(np.mean(refits))], f"estimated: {len(refits)} of {n_fits:,} fits", "≥ 20×")
    yield row(each, by_group, other, "only 5 folds")
    yield row(f"{name} × 5 folds", by_fold, other)


def one_by_one(X: np.ndarray, Y: np.ndarray, penalty: float, n_jobs: int) -> OneVsRestClassifier:
    Y = Y.astype(np.int64)  # scikit-learn 1.9 mixes up the columns of uint8 labels where there are more than 256
    return OneVsRestClassifier(LogisticRegression(C=1 / penalty, max_iter=1000), n_jobs=n_jobs).fit(X, Y)


def mean_losses(logits: np.ndarray, Y: np.ndarray, coefficients: np.ndarray, penalty: float) -> np.ndarray:  # (n, K), (n, K), (d, K)
    "(K,) penalised log loss of each label, a unit."
    return (np.logaddexp(0, logits).sum(0) - (logits * Y).sum(0) + penalty / 2 * (coefficients**2).sum(0)) / len(Y)


def losses_of_both(X: np.ndarray, Y: np.ndarray, penalty: float, models: OneVsRestClassifier, device: str) -> tuple[np.ndarray, np.ndarray]:
    axes = principal_axes(X)
    Z, power = with_ones(axes, X, device), torch.as_tensor(np.r_[len(X), axes.power], dtype=torch.float32, device=device)
    W = multilabel_fits(Z, power, torch.as_tensor(Y, device=device), torch.full((Y.shape[1],), penalty, device=device)).double().cpu().numpy()
    scaled = StandardScaler().fit_transform(X.astype(np.float64))
    coefficients = np.concatenate([model.coef_ for model in models.estimators_]).T.astype(np.float64)
    intercepts = np.concatenate([model.intercept_ for model in models.estimators_])
    ours = mean_losses(axes(X) @ W[1:] + W[0], Y, W[1:], penalty)
    return ours, mean_losses(scaled @ coefficients + intercepts, Y, coefficients, penalty)


def multilabel_rows(X: np.ndarray, Y: np.ndarray, groups: np.ndarray, n_jobs: int, device: str, every: int) -> Iterator[dict]:
    split = group_splits(groups, [0])[0]
    X, X_test, Y, groups = X[split.train].astype(np.float32), X[split.test].astype(np.float32), Y[split.train], groups[split.train]
    for penalty in (LOGISTIC_PENALTIES[0], LOGISTIC_PENALTIES[2], LOGISTIC_PENALTIES[3]):
        (probabilities, _), ours = timed(lambda: multilabel_logistic(X, Y, groups, X_test, penalties=[penalty], device=device))
        scaler = StandardScaler().fit(X)
        models, other = timed(lambda: one_by_one(scaler.transform(X), Y, penalty, n_jobs))
        expected, predicting = timed(lambda: models.predict_proba(scaler.transform(X_test)))
        found, least = losses_of_both(X, Y, penalty, models, device)
        if np.abs(found - least).max() > 1e-3:
            raise AssertionError(f"penalty {penalty}: losses of label {np.abs(found - least).argmax()} are {np.abs(found - least).max()} apart: not the same problem")
        note = f"loss {found.mean():.6f}, scikit-learn's {least.mean():.6f}; of a label at most {max((found - least).max(), 0):.0e} above"
        name = f"{Y.shape[1]} labels, penalty {penalty:g}: {note}; probabilities {np.abs(probabilities - expected).max():.0e} apart"
        yield row(name, [ours], [other + predicting], goal="≥ 5×")
    folds, few = group_folds(groups, Y), Y[:, ::every]
    (_, chosen), ours = timed(lambda: multilabel_logistic(X, Y, groups, X_test, device=device))
    spent = []
    for penalty in LOGISTIC_PENALTIES:
        for fold in range(3):
            rest, out = folds != fold, folds == fold
            Z_rest, Z_out = scaler.transform(X[rest]), scaler.transform(X[out])
            spent.append(timed(lambda: one_by_one(Z_rest, few[rest], penalty, n_jobs).predict_proba(Z_out))[1])
    spent.append(timed(lambda: [LogisticRegression(C=1 / penalty, max_iter=1000).fit(scaler.transform(X), label) for label, penalty in zip(few.T, chosen[::every])])[1])
    name = f"{Y.shape[1]} labels × {len(LOGISTIC_PENALTIES)} penalties × 3 folds, and the fit"
    yield row(name, [ours], [sum(spent)], f"of {few.shape[1]} labels, times {Y.shape[1] / few.shape[1]:g}", "≥ 5×", Y.shape[1] / few.shape[1])


def markdown(lines: list[dict], arguments: argparse.Namespace, load: float) -> str:
    device = torch.cuda.get_device_name(arguments.device) + " for the labels of ours" if arguments.device.startswith("cuda") else "no GPU"
    facts = f"{machine(f'{arguments.threads} thread(s) on both sides, {device}', 'numpy', 'torch', 'scikit-learn')} Load average when it began: {load:.2f}.\n"
    facts += f"{arguments.n:,} units × {arguments.d} features, {arguments.labels} labels."
    return page("Seconds of a linear probe", facts, __doc__, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2,000 units, 64 features, 40 labels, 2 splits")
    parser.add_argument("--n", type=int, default=13_000, help="units")
    parser.add_argument("--d", type=int, default=512, help="features")
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=10, help="splits")
    parser.add_argument("--every", type=int, default=10, help="of the whole grid scikit-learn solves every so many labels (1: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="of our labels, such as cuda")
    parser.add_argument("--write", nargs="?", const=HERE / "results" / "probe.md", metavar="FILE", help="also to this file (results/probe.md)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.n, arguments.d, arguments.labels, arguments.seeds = 2_000, 64, 40, 2
    load, lines = os.getloadavg()[0], []
    torch.set_num_threads(arguments.threads)
    X, y, Y, groups = made(arguments.n, arguments.d, arguments.labels)
    with threadpool_limits(arguments.threads):
        warm = slice(0, 200)
        ridge(X[warm], y[warm], groups[warm], X[warm])
        multilabel_logistic(X[warm], Y[warm, :2], groups[warm], X[warm], device=arguments.device)
        grid_of_ridges(X[warm], y[warm], np.arange(200) % 5, X[warm])
        for rows in (ridge_rows(X, y, groups, arguments.seeds), multilabel_rows(X, Y, groups, arguments.threads, arguments.device, arguments.every)):
            for line in rows:
                lines.append(line)
                sys.stderr.write("  ".join(line.values()) + "\n")
    text = markdown(lines, arguments, load)
    sys.stdout.write(text)
    if arguments.write:
        Path(arguments.write).write_text(text)


if __name__ == "__main__":
    main()
