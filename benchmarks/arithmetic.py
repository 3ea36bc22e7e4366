"""Which operations of PyTorch, and which optimizers, give the same bits on other processors.

`python benchmarks/arithmetic.py` computes each once, with its gradient, as training does: in float32, by one thread
and with the settings of src/common/backend.py, in an interpreter of its own. Then it does so with emulated
arithmetic (`--under "qemu-x86_64 -cpu Haswell-v4"`, a minute; `--under ""` leaves that out). An emulator and each
maker of processors have results of their own where an instruction only approximates (RCPPS, RSQRTPS); of others IEEE 754
has one result.

Each run replaces that of such a machine in benchmarks/arithmetic.json, which so grows from several processors; runs with
another PyTorch go.
"""

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from common import files, params
from common.backend import keras
from common.errors import InputError

import torch
from torch.nn import functional as F

import benchmark_files
from sameness import place
from train import make_optimizer
from training.machine import set_up

RESULTS = Path("benchmarks/arithmetic.json")
EMULATOR = "qemu-x86_64 -cpu Haswell-v4"
Operation = Callable[[torch.Tensor], torch.Tensor]


def numbers(*shape: int) -> torch.Tensor:
    """Some between -0.5 and 0.5, without a random generator."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * 7919 % 2003).float() / 2003 - 0.5).view(shape)


# by the numbers that they take: between -2 and 2, 0.001 and 2, -0.99 and 0.99
ELEMENTWISE = {
    "any": (
        "abs", "exp", "exp2", "expm1", "sin", "cos", "tan", "atan", "sinh", "cosh", "tanh", "asinh", "sigmoid", "erf",
        "erfc", "square", "sinc", "logcumsumexp", "cumsum", "relu", "elu", "selu", "celu", "gelu", "silu", "mish",
        "softplus", "softsign", "hardswish", "hardsigmoid", "logsigmoid", "leaky_relu", "tanhshrink",
    ),
    "positive": ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "lgamma", "digamma", "acosh"),
    "small": ("asin", "acos", "atanh", "erfinv"),
}  # fmt: skip


def _elementwise(name: str, kind: str) -> Operation:
    function = getattr(torch, name, None) or getattr(F, name)
    options = (-1,) if "cum" in name else ()
    offset = 1.0 if name == "acosh" else 0.0

    def operation(x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(-1)
        return function({"any": 4 * x, "positive": 2 * (x.abs() + 0.001) + offset, "small": 1.98 * x}[kind], *options)

    return operation


# of values (8, 8, 12, 12): batch, channels, height, width
LAYERS: dict[str, Operation] = {
    "x ** 0.5": lambda x: (x.abs() + 0.001) ** 0.5,
    "x ** 1.7": lambda x: (x.abs() + 0.001) ** 1.7,
    "x ** y": lambda x: (x.abs() + 0.001) ** x,
    "atan2": lambda x: torch.atan2(x, x.flip(0) + 1),
    "hypot": lambda x: torch.hypot(x, x.flip(0)),
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "logsumexp": lambda x: x.logsumexp(1),
    "cross_entropy": lambda x: F.cross_entropy(x.flatten(1)[:, :10], torch.arange(8), label_smoothing=0.1),
    "standard deviation": lambda x: x.std((0, 2, 3)),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=1),
    "normalize": F.normalize,
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "group norm": lambda x: F.group_norm(x, 2),
    "local response norm": lambda x: F.local_response_norm(x, 3),
    "convolution": lambda x: F.conv2d(x, numbers(16, 8, 3, 3), padding=1),
    "depthwise convolution": lambda x: F.conv2d(x, numbers(8, 1, 3, 3), groups=8),
    "transposed convolution": lambda x: F.conv_transpose2d(x, numbers(8, 4, 3, 3), stride=2),
    "dense": lambda x: F.linear(x.flatten(1), numbers(40, 1152), numbers(40)),
    "batched product": lambda x: x @ x.transpose(2, 3),
    "attention": lambda x: F.scaled_dot_product_attention(x, x.flip(1), x.flip(0)),
    "maximum pooling": lambda x: F.max_pool2d(x, 2),
    "average pooling": lambda x: F.avg_pool2d(x, 3),
    "bilinear resizing": lambda x: F.interpolate(x, scale_factor=1.4, mode="bilinear"),
    "bicubic resizing": lambda x: F.interpolate(x, scale_factor=1.4, mode="bicubic"),
    "grid sample": lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False),
    "inverse": lambda x: torch.linalg.inv(x + 9 * torch.eye(12)),
    "Cholesky": lambda x: torch.linalg.cholesky(x @ x.transpose(2, 3) + torch.eye(12)),
    "Cholesky in float64": lambda x: torch.linalg.cholesky((x @ x.transpose(2, 3)).double() + torch.eye(12)),
    "inverse in float64": lambda x: torch.linalg.inv(x.double() + 9 * torch.eye(12)),
    "log_softmax in float64": lambda x: x.double().log_softmax(1),
    "QR": lambda x: torch.linalg.qr(x + torch.eye(12)).Q,
    "singular values": lambda x: torch.linalg.svdvals(x + torch.diag(torch.arange(12.0))),
    "Fourier transform": lambda x: torch.fft.rfft2(x).abs().square(),
    "uniform draws": lambda x: x * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)),
    "normal draws": lambda x: x * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
}
OPERATIONS = LAYERS | {name: _elementwise(name, kind) for kind, names in ELEMENTWISE.items() for name in names}


def operation_hash(operation: Operation) -> str:
    """Of its values and their gradient."""
    x = numbers(8, 8, 12, 12).requires_grad_()
    y = operation(x)
    return _hash([y, *torch.autograd.grad(y, x, numbers(*y.shape).to(y.dtype))])


def optimizer_hash(optimizer: keras.Optimizer) -> str:
    """Of the weights of a small network after three steps."""
    variables = [keras.Variable(numbers(16, 1, 3, 3)), keras.Variable(numbers(10, 16))]
    for step in range(3):
        kernel, dense = (variable.value.detach().requires_grad_() for variable in variables)
        x = F.conv2d(numbers(8, 1, 10, 10) + 0.1 * step, kernel, padding=1)
        x = F.silu(F.batch_norm(x, None, None, training=True)).amax((2, 3))
        loss = F.cross_entropy(F.linear(x, dense), torch.arange(8))
        optimizer.apply([*torch.autograd.grad(loss, (kernel, dense))], variables)
    return _hash([variable.value for variable in variables])


def _hash(tensors: list[torch.Tensor]) -> str:
    assert all(tensor.isfinite().all() for tensor in tensors)  # NaN has more than one pattern of bits
    content = b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(content).hexdigest()[:16]


def hashes() -> dict[str, str]:
    """By the name of the operation or the optimizer with its options."""
    set_up("float32")
    found = {name: operation_hash(operation) for name, operation in OPERATIONS.items()}
    names = get_args(params.Train.model_fields["optimizer"].annotation)
    chosen: list[tuple[str, dict[str, Any]]] = [
        *((name, options) for name in names for options in ({}, {"clipnorm": 0.1}, {"global_clipnorm": 0.1})),
        *((name, {"amsgrad": True}) for name in ("adam", "adamw")),
        ("adam", {"exact_roots": False}),
    ]
    for name, options in chosen:
        title = " ".join(["optimizer", name, *(f"{key}: {value}" for key, value in options.items())])
        found[title] = optimizer_hash(make_optimizer(name, 0.01, options)[0])
    return found


def measure(under: str) -> dict[str, str]:
    """Hashes in an interpreter of its own, started by the command `under`.

    Raises:
        InputError: it fails.
    """
    try:
        command = shlex.split(under)
    except ValueError as error:
        raise InputError(f"--under must be a command as a shell reads it; received {under}: {error}") from None
    words = [*command, sys.executable, "-EB", __file__, "--print"]
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, check=False)
    except FileNotFoundError:
        raise InputError(f"--under must start a program that is installed; received {under}") from None
    if done.returncode:
        raise InputError(f"all operations must be computed under {under or 'nothing'}; it ended with {done.returncode}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--under", default=EMULATOR, metavar="COMMAND", help="(default: %(default)s)")
    parser.add_argument("--print", action="store_true", help="only print the hashes of this processor")
    chosen = parser.parse_args()
    if chosen.print:
        print(json.dumps(hashes()))
        return
    runs = benchmark_files.earlier(RESULTS).get("runs", [])
    for under in dict.fromkeys(["", chosen.under]):
        identity = {"under": under} | place()
        release = identity["torch"].partition("+")[0]  # without the build
        same = [run for run in runs if run["torch"].partition("+")[0] == release]
        others = [run for run in same if not identity.items() <= run.items()]
        runs = [*others, identity | {"hashes": measure(under)}]
        files.write_json(RESULTS, {"runs": runs})


if __name__ == "__main__":
    main()
