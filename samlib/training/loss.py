"""What training asks of a loss: one interface for stacks of networks and for single modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import cycle

import torch
from torch import Tensor

from samlib.training.data import Dataset
from samlib.training.spec import RunSpec


class Loss(ABC):
    """f(θ) = mean loss over the training set + (λ/2)‖θ‖² for each row of θ, shape (E, p).

    λ is the run's weight decay, on all parameters. The rows are networks of one architecture; a
    single ``torch.nn.Module`` is E = 1. ``rows`` are indices of training examples, None: all. The
    rules of :mod:`samlib.dynamics.rules` take a loss as their oracle.

    Attributes
    ----------
    device : str
        Where the loss is computed.
    x, y, x_test, y_test : Tensor
        The data there: inputs (N, …) in the run's precision, and their classes (N,).
    classes : int
        How many classes there are, k.
    decay : float
        λ.
    LOOKS : int
        At how many steps, spread over the run, a run with mini-batches is measured.
    CHECK_EVERY : int
        Steps from one look for runs that diverged to the next.
    """

    LOOKS: int
    CHECK_EVERY: int

    def __init__(self, spec: RunSpec, dataset: Dataset, device: str) -> None:
        dtype = getattr(torch, spec.dtype)
        self.device, self.decay, self.classes = device, spec.weight_decay, dataset.num_classes
        self.x = torch.as_tensor(dataset.x_train, dtype=dtype, device=device)
        self.x_test = torch.as_tensor(dataset.x_test, dtype=dtype, device=device)
        self.y = torch.as_tensor(dataset.y_train, device=device)
        self.y_test = torch.as_tensor(dataset.y_test, device=device)

    @abstractmethod
    def value_and_grad(self, theta: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f, shape (E,), and ∇f, shape (E, p), for each row of ``theta`` (E, p)."""

    @abstractmethod
    def hvp(self, theta: Tensor, v: Tensor, rows: Tensor | None = None) -> Tensor:
        """∇²f(θ)v for each row of ``theta`` and ``v``, all shapes (E, p)."""

    @abstractmethod
    def predict(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """Class probabilities (E, k, N) of training examples for each row of ``theta`` (E, p)."""

    @abstractmethod
    def accuracy(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Fraction of ``x`` (N, …) that each row of ``theta`` classifies as ``y``, shape (E,)."""

    def f(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """f for each row of ``theta`` (E, p), shape (E,)."""
        return self.value_and_grad(theta, rows)[0]

    def grad(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """∇f for each row of ``theta``, shape (E, p)."""
        return self.value_and_grad(theta, rows)[1]

    @property
    def prior(self) -> Tensor:
        """How frequent each class is among the training examples, (k,), float64."""
        return torch.bincount(self.y, minlength=self.classes).double() / len(self.y)

    @property
    def baseline(self) -> float:
        """The loss of the best constant predictor: the entropy of the class prior, in nats."""
        return float(torch.special.entr(self.prior).sum())

    @abstractmethod
    def start(self, specs: Sequence[RunSpec], theta: Tensor | None = None) -> Iterate:
        """The runs ``specs`` at their initial points, or at the rows of ``theta`` (E, p)."""


class OnBatches:
    """A loss as an oracle that evaluates it on the given batches in turn, over and over.

    Parameters
    ----------
    loss
        The loss.
    batches
        Indices of the training examples of each gradient, None: all.
    """

    def __init__(self, loss: Loss, batches: Iterable[Tensor | None]) -> None:
        self.loss, self._turns = loss, cycle(batches)
        self._rows: Tensor | None = None

    def value_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """f, (E,), and ∇f, (E, p), on the next batch."""
        self._rows = next(self._turns)
        return self.loss.value_and_grad(theta, self._rows)

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        """∇²f(θ)v, (E, p), on the batch of the gradient before."""
        return self.loss.hvp(theta, v, self._rows)


class Iterate(ABC):
    """E networks in training: the rows of θ, and the step that moves them.

    A reading is a tensor of shape (4, E): f and ‖∇f‖ at x, and both at x⁺, the rows of
    :data:`samlib.training.spec.CURVES`.

    Attributes
    ----------
    loss : Loss
        What is descended.
    specs : sequence of RunSpec
        The run of each row.
    differentiates : bool
        Whether a step needs autograd.
    """

    loss: Loss
    specs: Sequence[RunSpec]
    differentiates: bool

    @property
    @abstractmethod
    def theta(self) -> Tensor:
        """The networks' parameters, (E, p)."""

    @abstractmethod
    def look(self, rho: Tensor) -> Tensor:
        """A reading with radii ``rho`` (E, 1) on the examples that the loss is measured on."""

    @abstractmethod
    def move(self, rho: Tensor, batches: Sequence[Tensor | None]) -> Tensor:
        """Make a step whose gradients are taken on ``batches`` in turn; its reading, at x."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, a mask of shape (E,)."""


def confidence(p: Tensor) -> dict[str, float]:
    """What predictions ``p`` (k, N) say, in nats.

    ``entropy`` is the mean entropy of a prediction, ``spread`` the mean Kullback–Leibler divergence
    of a prediction from their mean (0: a constant predictor).
    """
    entropy = float(torch.special.entr(p).sum(0).mean())
    return {"entropy": entropy, "spread": float(torch.special.entr(p.mean(1)).sum()) - entropy}
