"""PTB-XL, all of the study's prunings: two norms, one, five and ten rounds (Holda et al. 2026)."""

from harness import Matrix, Profile, Skip, train
from harness_compress import distill, prune, quantize

LEVELS = (0.75, 0.5, 0.125)

ptbxl_pruning = Matrix(
    dataset="ptbxl",
    architecture=["rnn", "cnn", "resnet"],
    training={"plain": [train()], "distilled": [train(), distill("mld", weight=0.6)]},
    pruning={
        "full": [],
        **{
            f"{norm}.{rounds}.keep{keep:g}": [prune(norm, keep=keep, rounds=rounds)]
            for norm in ("l1", "l2")
            for rounds in (1, 5, 10)
            for keep in LEVELS
        },
    },
    precision={"float32": [], "int8": [quantize("ptq-int8")]},
    seed=range(5),
    profile={
        "rnn": [
            Profile(threads=1, allocator=["tcmalloc", "system"], name="onednn"),
            Profile(threads=1, allocator=["tcmalloc", "system"], name="native", onednn=False),
        ],
        "*": Profile(threads=1, allocator=["jemalloc", "system"]),
    },
    skip=[Skip("the plain recipe tells what oneDNN does", training="distilled", profile="native")],
)
