"""A multi-layer perceptron in NumPy, trained on the handwritten digits that scikit-learn ships."""

import os
from itertools import pairwise

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import incl

EPOCHS = int(os.environ.get("EPOCHS", "400"))
LR = float(os.environ.get("LR", "0.0003"))
HIDDEN = int(os.environ.get("HIDDEN", "256"))
BATCH = 64


def dataset():
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0 - 0.5).astype(np.float32)
    return train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)


class Mlp:
    def __init__(self, sizes, rng):
        self.weights = [rng.normal(0, np.sqrt(2 / a), (a, b)).astype(np.float32) for a, b in pairwise(sizes)]
        self.biases = [np.zeros(b, np.float32) for b in sizes[1:]]

    @property
    def parameters(self):
        return self.weights + self.biases

    def forward(self, x):
        activations = [x]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight + bias
            if layer < len(self.weights) - 1:
                x = np.maximum(x, 0)
            activations.append(x)
        return activations

    def gradients(self, x, y):
        activations = self.forward(x)
        logits = activations[-1] - activations[-1].max(axis=1, keepdims=True)
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(len(y)), y] + 1e-9).mean()
        accuracy = (p.argmax(axis=1) == y).mean()
        delta = p.copy()
        delta[np.arange(len(y)), y] -= 1
        delta /= len(y)
        weights, biases = [], []
        for layer in reversed(range(len(self.weights))):
            weights.insert(0, activations[layer].T @ delta)
            biases.insert(0, delta.sum(axis=0))
            delta = (delta @ self.weights[layer].T) * (activations[layer] > 0)
        return loss, accuracy, weights + biases


def main():
    rng = np.random.default_rng(0)
    x_train, x_val, y_train, y_val = dataset()
    model = Mlp([64, HIDDEN, HIDDEN, 10], rng)
    first = [np.zeros_like(p) for p in model.parameters]
    second = [np.zeros_like(p) for p in model.parameters]
    print(f"{len(x_train)} images to learn from, {len(x_val)} to check with; {EPOCHS} epochs at learning rate {LR}")
    step, best = 0, 0.0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(x_train))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            step += 1
            loss, accuracy, gradients = model.gradients(
                x_train[batch] + rng.normal(0, 0.15, (len(batch), 64)).astype(np.float32), y_train[batch]
            )
            for i, (parameter, gradient) in enumerate(zip(model.parameters, gradients, strict=True)):
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                parameter[...] -= LR * (first[i] / (1 - 0.9**step)) / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
            incl.log({"loss": loss, "acc": accuracy}, step=step)
        val_acc = (model.forward(x_val)[-1].argmax(axis=1) == y_val).mean()
        incl.log({"val_acc": val_acc}, step=step)
        if val_acc > best:
            best = val_acc
            np.savez(incl.output_dir / "best.npz", *model.parameters)
        if epoch % 40 == 39:
            print(f"epoch {epoch + 1:3d}  loss {loss:.4f}  val_acc {val_acc:.4f}")
    print(f"best val_acc {best:.4f}; the weights are in best.npz")


main()
