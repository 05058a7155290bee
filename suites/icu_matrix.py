"""Death in the ICU, three networks: what pruning and quantization save and what they cost (Liu et al. 2021)."""

from harness import Matrix, Profile, train
from harness_compress import prune_quantile, quantize

AXES = {
    "architecture": ["lstm", "hlstm", "dnn"],
    # The study prunes after the first of 20 epochs.
    "pruning": {
        "full": [train()],
        **{f"below{share:g}": [train(epochs=1), prune_quantile(share, epochs=19)] for share in (0.25, 0.5)},
    },
    "precision": {"float32": [], "uniform8": [quantize("uniform8")], "int8": [quantize("ptq-int8")]},
    "seed": range(5),
    "profile": Profile(threads=1, allocator=["jemalloc", "mimalloc", "system"]),
}

mimic3 = Matrix(dataset="mimic3", **AXES)
physionet2012 = Matrix(dataset="physionet2012", **AXES)
