"""PTB-XL, the RNN trained for fewer epochs: what the length of training does, which the study does not give."""

from harness import Matrix, Profile, train

rnn = Matrix(
    dataset="ptbxl",
    architecture="rnn",
    epochs={
        "30": [train(precision="bfloat16")],  # as its architecture says, and as ptbxl_pruning.py trains it
        "10": [train(epochs=10, precision="bfloat16")],
        "5": [train(epochs=5, precision="bfloat16")],
    },
    profile=Profile(threads=1, allocator=["tcmalloc", "mimalloc", "system"]),
)
