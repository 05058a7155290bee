"""PTB-XL, channel counts that are multiples of eight and their neighbours: which are faster (Holda et al. 2026).

The weights do not matter to the time, so that one epoch trains them: run it in the preset quick.
"""

from harness import Matrix, Profile, train
from harness_compress import prune, quantize

AXES = {
    "dataset": "ptbxl",
    "precision": {"float32": [], "int8": [quantize("ptq-int8")]},
    "profile": Profile(threads=1, allocator=["jemalloc", "mimalloc", "system"]),
}

# Of 32, 64, 96 and 32 channels 24 in 32 leave 24, 48, 72 and 24, and 23 in 32 leave 23, 46, 69 and 23.
channels_cnn = Matrix(
    architecture="cnn",
    channels={
        "full": [train(epochs=1)],
        **{
            f"{count}of32": [train(epochs=1), prune("l1", keep=count / 32)]
            for multiple in (8, 16, 24)
            for count in (multiple - 1, multiple, multiple + 1)
        },
    },
    **AXES,
)
channels_resnet = Matrix(
    architecture="resnet",
    channels={
        "full": [train(epochs=1)],
        **{
            f"{count}of64": [train(epochs=1), prune("l1", keep=count / 64)]
            for multiple in (16, 32, 48)
            for count in (multiple - 1, multiple, multiple + 1)
        },
    },
    **AXES,
)
