"""PTB-XL, three networks, four widths, float32 and int8: the runtimes that could ship them, against eager float32."""

from harness import Matrix, Profile, train
from harness_compress import prune, quantize

ptbxl = Matrix(
    dataset="ptbxl",
    architecture=["rnn", "cnn", "resnet"],
    pruning={"full": [train()], **{f"keep{f:g}": [train(), prune("l1", keep=f)] for f in (0.75, 0.5, 0.125)}},
    precision={"float32": [], "int8": [quantize("int8")]},
    runtime=["torch", "onnxruntime", "openvino"],
    reference={"runtime": "torch"},
    profile={
        "rnn": Profile(threads=1, allocator=["tcmalloc", "mimalloc", "system"]),
        "*": Profile(threads=1, allocator=["jemalloc", "mimalloc", "system"]),
    },
)
