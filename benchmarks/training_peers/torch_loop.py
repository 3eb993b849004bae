"""The reference task as a plain PyTorch loop: python torch_loop.py FOLDER_OF_IDX_FILES."""

import gzip
import json
import struct
import sys
from pathlib import Path

import torch
from torch import nn


def read(path: Path) -> torch.Tensor:
    """A gzipped IDX file of bytes."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    shape = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * content[3]).reshape(shape)


def accuracy(net: nn.Module, X: torch.Tensor, Y: torch.Tensor) -> float:
    """The fraction that is classified correctly."""
    with torch.no_grad():
        return (net(X).argmax(1) == Y).float().mean().item()


def main() -> None:
    """Train, validate after every epoch, and print the accuracy on the test digits."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    X = read(folder / "train-images-idx3-ubyte.gz").reshape(-1, 784).float() / 255
    Y = read(folder / "train-labels-idx1-ubyte.gz").long()
    test_X = read(folder / "t10k-images-idx3-ubyte.gz").reshape(-1, 784).float() / 255
    test_Y = read(folder / "t10k-labels-idx1-ubyte.gz").long()
    order = torch.randperm(len(X))
    held = len(X) // 5
    val_X, val_Y, X, Y = X[order[:held]], Y[order[:held]], X[order[held:]], Y[order[held:]]
    net = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer, loss = torch.optim.Adam(net.parameters(), lr=1e-3), nn.CrossEntropyLoss()
    for _ in range(10):
        for rows in torch.randperm(len(X)).split(32):
            optimizer.zero_grad()
            loss(net(X[rows]), Y[rows]).backward()
            optimizer.step()
        accuracy(net, val_X, val_Y)
    print(json.dumps({"accuracy": accuracy(net, test_X, test_Y)}), flush=True)


main()
