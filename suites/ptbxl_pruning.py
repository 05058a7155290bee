"""PTB-XL, all of the study's prunings: two norms, one, five and ten rounds (Holda et al. 2026).

The study does not give the arithmetic of its training. The RNN and the ResNet train in bfloat16 here (autocast, float32
weights), which takes half the time and less on processors that have it; the CNN gains little and trains in float32.
"""

from harness import Matrix, Profile, Skip, train
from harness_compress import distill, prune, quantize

LEVELS = (0.75, 0.5, 0.125)
JEMALLOC, TCMALLOC = ["jemalloc", "mimalloc", "system"], ["tcmalloc", "mimalloc", "system"]


def prunings(architecture, precision, profile, skip=()):
    return Matrix(
        dataset="ptbxl",
        architecture=architecture,
        training={
            "plain": [train(precision=precision)],
            "distilled": [train(precision=precision), distill("mld", weight=0.6, precision=precision)],
        },
        pruning={
            "full": [],
            **{
                f"{norm}.r{rounds}.keep{keep:g}": [prune(norm, keep=keep, rounds=rounds, precision=precision)]
                for norm in ("l1", "l2")
                for rounds in (1, 5, 10)
                for keep in LEVELS
            },
        },
        precision={"float32": [], "int8": [quantize("ptq-int8")]},
        seed=range(5),
        profile=profile,
        skip=skip,
    )


rnn = prunings(
    "rnn",
    "bfloat16",
    [
        Profile(threads=1, allocator=TCMALLOC, name="onednn"),
        Profile(threads=1, allocator=TCMALLOC, name="native", onednn=False),
    ],
    [Skip("the plain recipe tells what oneDNN does", training="distilled", profile="native")],
)
cnn = prunings("cnn", None, Profile(threads=1, allocator=JEMALLOC))
resnet = prunings("resnet", "bfloat16", Profile(threads=1, allocator=JEMALLOC))

# The other regime: 20 ms without work before each timed call. Its models are those of the matrix above.
resnet_paced = Matrix(
    dataset="ptbxl",
    architecture="resnet",
    pruning={
        "full": [train(precision="bfloat16")],
        **{
            f"l1.r1.keep{keep:g}": [
                train(precision="bfloat16"),
                prune("l1", keep=keep, rounds=1, precision="bfloat16"),
            ]
            for keep in LEVELS
        },
    },
    precision={"float32": [], "int8": [quantize("ptq-int8")]},
    profile=Profile(threads=1, allocator=JEMALLOC, pace="20ms"),
)
