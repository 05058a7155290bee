"""scikit-learn's diabetes, a regression: what pruning, distillation and 8-bit weights save and cost."""

from harness import Matrix, train
from harness_compress import distill_mse, prune, quantize

diabetes = Matrix(
    dataset="diabetes",
    architecture="small-mlp",
    training={"plain": [train()], "distilled": [train(), distill_mse(weight=0.5)]},
    pruning={"full": [], "keep0.5": [prune("l1", keep=0.5)]},
    precision={"float32": [], "uniform8": [quantize("uniform8")]},
    seed=range(5),
)
