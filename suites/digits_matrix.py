"""scikit-learn's digits, a multi-class task: what pruning, distillation and 8-bit weights save and cost."""

from harness import Matrix, train
from harness_compress import distill_kd, prune, quantize

digits = Matrix(
    dataset="digits",
    architecture=["small-cnn", "small-mlp"],
    training={"plain": [train()], "distilled": [train(), distill_kd(temperature=4, weight=0.9)]},
    pruning={"full": [], "keep0.5": [prune("l1", keep=0.5)]},
    precision={"float32": [], "uniform8": [quantize("uniform8", coverage=0)]},
    seed=range(5),
)
