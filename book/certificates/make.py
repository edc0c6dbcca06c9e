"""Make the certificates in this folder again.

    python book/certificates/make.py [NAME ...]

Without names all of them, some minutes on one core. Each network is trained here, from PyTorch's
default initialisation, in float64, by plain full-batch SAM. No result is put in by hand.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samlib.certify.certificate import Certificate, prove
from samlib.certify.exact_network import NetworkLoss
from samlib.landscapes import symbolic
from samlib.points.continuation import continue_in_rho
from samlib.points.search import refine, two_point_guess
from samlib.training import data, models

Floats = NDArray[np.float64]
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Digits:
    """A network on scikit-learn's digits, and how SAM runs on it."""

    hidden: int
    rho: str
    classes: tuple[int, ...] | None
    features: str
    n: int
    loss: str = "ce"
    eta: float = 0.05
    steps: int = 16000
    seeds: int = 8
    warm_start: int = 0  # steps of gradient descent before the first SAM step

    def network(self) -> NetworkLoss:
        """The loss, with λ = 3/100 on all parameters."""
        d = data.load_data("digits", n=self.n, classes=self.classes, features=self.features)
        return NetworkLoss(d.x_train, d.y_train, self.hidden, loss=self.loss, decay="3/100")

    def about(self) -> dict[str, Any]:
        """What the certificate says of the data."""
        classes = list(range(10) if self.classes is None else self.classes)
        return {"set": "digits", "classes": classes, "features": self.features}


DIGITS = {
    "digits-3v8": Digits(1, "3.5", (3, 8), "pixels", 100, "logistic"),
    "digits-012": Digits(4, "3.5", (0, 1, 2), "pca:4", 60),
    "digits-012-wide": Digits(8, "3.5", (0, 1, 2), "pca:8", 100),
    "digits-012-two-units": Digits(
        2, "2.8", (0, 1, 2), "pixels", 100, eta=0.1, steps=30000, seeds=4, warm_start=8000
    ),
    "digits-ten": Digits(10, "2.5", None, "pca:8", 150, steps=24000),
    "digits-ten-523": Digits(19, "2.7", None, "pca:16", 150, eta=0.1, steps=12000, seeds=4),
}
LANDSCAPES: dict[str, tuple[list[float], str]] = {
    "double-well-2d": ([0.2, 0.0], "6/5"),
    "double-well-saddle": ([0.2, 0.0], "6/5"),
    "twist": ([1.0, 0.0], "1"),
}
TOY = {"set": "eight points: x normal, y = sin 2x₁ + x₂² − 1/2, to three decimals"}
MOVES = ("flip-0", "flip-1", "flip-2", "swap-0-1", "swap-0-2", "swap-1-2")


def initial(net: NetworkLoss, seeds: int) -> Floats:
    """PyTorch's default initialisation for seeds 0, 1, …, shape (seeds, p)."""
    sizes = {"in_features": net.inputs, "out_features": net.outputs, "width": net.hidden}
    made = [models.build_model("mlp", seed=s, **sizes) for s in range(seeds)]
    return np.array([models.flat_parameters(m).double().numpy() for m in made])


def sam(net: NetworkLoss, theta: Floats, rho: float, eta: float, steps: int) -> tuple[Any, ...]:
    """SAM from the rows of θ (E, p): the last θ, ‖∇f(x⁺)‖/‖∇f(x)‖ and ‖∇f(x)‖, each (E, ...)."""
    for k in range(steps):
        g = net.grad(theta)
        norm = np.linalg.norm(g, axis=-1, keepdims=True)
        shifted = net.grad(theta + rho * g / norm)
        ratio = np.linalg.norm(shifted, axis=-1) / norm[:, 0]
        if k % 500 == 0 and (ratio < 1e-13).all():
            break
        theta = theta - eta * shifted
    return theta, ratio, norm[:, 0]


def minimizer(net: NetworkLoss, theta: Floats, eta: float = 0.2, steps: int = 8000) -> Floats:
    """Gradient descent from θ (p,), finished by Newton's method."""
    for _ in range(steps):
        theta = theta - eta * net.grad(theta)
    for _ in range(6):
        theta = theta - np.linalg.solve(net.hess(theta), net.grad(theta))
    return theta


def from_digits(name: str) -> Certificate:
    """Run SAM from each seed and certify the first limit that is hallucinated."""
    s = DIGITS[name]
    net, rho = s.network(), float(s.rho)
    start = initial(net, s.seeds)
    for _ in range(s.warm_start):
        start = start - 0.2 * net.grad(start)
    theta, ratio, norm = sam(net, start, rho, s.eta, s.steps)
    hallucinated = (ratio < 1e-8) & (norm > 1e-3)
    print(f"  {hallucinated.sum()} of {s.seeds} seeds reach a hallucinated point", flush=True)
    x = theta[np.argmax(hallucinated)]
    certificate = prove(net, x, s.rho, data=s.about())
    images = f"f(x_h) = {net.f(x):.4f}, f(x⁺) = {net.f(certificate.image):.4f}"
    print(f"  {images}, accuracy {net.accuracy(x):.2f}")
    return certificate


def toy() -> NetworkLoss:
    """A tanh 2-3-1 network on eight points: 13 parameters."""
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=(8, 2)), 3)
    y = np.round(np.sin(2 * x[:, 0]) + x[:, 1] ** 2 - 0.5, 3)
    return NetworkLoss(x, y, 3, loss="mse", decay="1/100")


def toy_minimizer(net: NetworkLoss) -> Floats:
    """The best of twenty minimizers."""
    starts = np.random.default_rng(1).normal(size=(20, net.dim))
    for _ in range(6000):
        starts = starts - 0.2 * net.grad(starts)
    return minimizer(net, starts[np.argmin(net.f(starts))], steps=20000)


def from_toy(name: str) -> Certificate:
    """Two minimizers suffice: start next to the second one and follow the branch half-way."""
    net = toy()
    image = toy_minimizer(net)
    move, *units = name.removeprefix("tanh-2-3-1-").split("-")
    other = {"flip": net.flip_unit, "swap": net.swap_units}[move](image, *map(int, units))
    distance = float(np.linalg.norm(other - image))
    rho = distance * (1 - 1e-4)
    first = refine(net, two_point_guess(net, other, image, rho), image, rho)
    branch = continue_in_rho(net, first, 0.8 * distance)
    rho = round((distance + branch.rho[-1]) / 2, 6)
    print(f"  D = {distance:.4f}, branch to ρ = {branch.rho[-1]:.4f} ({branch.ended})")
    at = int(np.argmin(np.abs(branch.rho - rho)))
    return prove(net, refine(net, branch.x[at], image, rho).x, rho, data=TOY)


def main(names: list[str]) -> None:
    """Make the named certificates, or all; check each again from its file."""
    toys = [f"tanh-2-3-1-{m}" for m in MOVES]
    for name in names or [*LANDSCAPES, *toys, *DIGITS]:
        print(name, flush=True)
        if name in LANDSCAPES:
            x, rho = LANDSCAPES[name]
            certificate = prove(symbolic.landscape(name), x, rho)
        else:
            certificate = from_toy(name) if name in toys else from_digits(name)
        path = FOLDER / f"{name}.json"
        certificate.save(path)
        start = time.process_time()
        Certificate.load(path).recheck()
        again = time.process_time() - start
        print(f"{certificate}\n  CPU time {certificate.seconds} s, to check again {again:.2f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
