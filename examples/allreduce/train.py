"""Data-parallel training with a ring all-reduce over plain sockets, in NumPy: one process a node.

The ring is the bandwidth-optimal one of Patarasuk and Yuan (2009): a reduce-scatter, then an all-gather.
"""

import os
import socket
import time

import numpy as np

import incl

RANK, NODES = int(os.environ["INCL_NODE_RANK"]), int(os.environ["INCL_NUM_NODES"])
ADDRESSES, PORT = os.environ["INCL_NODE_IPS"].split(","), int(os.environ["MASTER_PORT"])
STEPS = int(os.environ.get("STEPS", "200"))


class Ring:
    """Sends to the next rank and receives from the one before."""

    def __init__(self):
        with socket.create_server((ADDRESSES[RANK], PORT)) as server:
            self.next = self._connect(ADDRESSES[(RANK + 1) % NODES])
            self.previous, _ = server.accept()
        for link in (self.next, self.previous):
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @staticmethod
    def _connect(address, patience=30.0):
        deadline = time.monotonic() + patience
        while True:
            try:
                return socket.create_connection((address, PORT), timeout=patience)
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def exchange(self, part):
        """Chunks are small enough for the socket's buffer, so that everyone may send first."""
        self.next.sendall(part.tobytes())
        received = bytearray()
        while len(received) < part.nbytes:
            piece = self.previous.recv(part.nbytes - len(received))
            if not piece:
                raise ConnectionError("the previous rank is gone")
            received += piece
        return np.frombuffer(received, part.dtype)

    def mean(self, vector):
        parts = np.array_split(vector.astype(np.float64), NODES)
        for turn in range(NODES - 1):
            target = (RANK - turn - 1) % NODES
            size = parts[target].size
            sent = np.resize(parts[(RANK - turn) % NODES], parts[0].size)
            parts[target] = parts[target] + self.exchange(sent)[:size]
        for turn in range(NODES - 1):
            target = (RANK - turn) % NODES
            size = parts[target].size
            sent = np.resize(parts[(RANK - turn + 1) % NODES], parts[0].size)
            parts[target] = self.exchange(sent)[:size]
        return np.concatenate(parts) / NODES


def main():
    rng = np.random.default_rng(100 + RANK)
    truth = np.random.default_rng(0).normal(size=16)
    x = rng.normal(size=(256, 16))
    y = x @ truth + rng.normal(0, 0.01, 256)
    weights = np.zeros(16)
    ring = Ring() if NODES > 1 else None
    for step in range(1, STEPS + 1):
        error = x @ weights - y
        gradient = np.append(x.T @ error / len(y), np.mean(error**2))
        gradient = ring.mean(gradient) if ring else gradient
        weights -= 0.1 * gradient[:16]
        incl.log({"loss": gradient[16]}, step=step)
    distance = float(np.abs(weights - truth).max())
    incl.log({"distance": distance}, step=STEPS)
    print(f"rank {RANK} of {NODES}: weights are within {distance:.4f} of the truth, checksum {weights.sum():.12f}")
    (incl.output_dir / f"checksum-{RANK}.txt").write_text(f"{weights.sum():.12f}\n")


main()
