"""PTB-XL, three networks: what each compression saves and what it costs (Holda et al. 2026)."""

from harness import Matrix, Profile, Skip, train
from harness_compress import distill, prune, quantize

ptbxl = Matrix(
    dataset="ptbxl",
    architecture=["rnn", "cnn", "resnet"],
    training={"plain": [train()], "distilled": [train(), distill("mld", weight=0.6)]},
    pruning={"full": [], **{f"keep{f:g}": [prune("l1", keep=f)] for f in (0.75, 0.5, 0.125)}},
    precision={"float32": [], "int8": [quantize("ptq-int8")]},
    seed=range(5),
    profile={
        "rnn": [
            Profile(threads=1, allocator=["tcmalloc", "mimalloc", "system"], name="onednn"),
            Profile(threads=1, allocator=["tcmalloc", "mimalloc", "system"], name="native", onednn=False),
        ],
        "*": Profile(threads=1, allocator=["jemalloc", "mimalloc", "system"]),
    },
    skip=[Skip("the plain recipe tells what oneDNN does", training="distilled", profile="native")],
)

# The other regime: 20 ms without work before each timed call. Its models are those of the matrix above.
paced = Matrix(
    dataset="ptbxl",
    architecture=["rnn", "cnn", "resnet"],
    pruning={"full": [train()], **{f"keep{f:g}": [train(), prune("l1", keep=f)] for f in (0.5, 0.125)}},
    precision={"float32": [], "int8": [quantize("ptq-int8")]},
    profile={
        "rnn": Profile(threads=1, allocator=["tcmalloc", "mimalloc", "system"], pace="20ms"),
        "*": Profile(threads=1, allocator=["jemalloc", "mimalloc", "system"], pace="20ms"),
    },
)
