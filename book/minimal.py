"""Hallucinated minimizers in one file: find one, see that it attracts, prove it, train into one.

Sharpness-aware minimization (SAM) of f, with radius ρ and learning rate η, replaces x by

    x − η ∇f(x⁺),    where    x⁺ = x + ρ ∇f(x)/‖∇f(x)‖.

So it stands still where ∇f(x⁺) = 0, even if ∇f(x) ≠ 0. Then x is hallucinated, with image x⁺; it is
a hallucinated minimizer if x⁺ is a minimizer of f (Park, Jang, Ryu and Yang, arXiv 2509.21818).

Part 1 finds the hallucinated points with a given image, for a function of two variables, and which
of them attract SAM. Part 2 proves that the first one is there and attracts. In part 3 gradient
descent trains a network to tell two digits apart, and SAM ends at a hallucinated point instead.

Run it: python minimal.py. It needs NumPy, SciPy, scikit-learn (for the digits) and python-flint.
"""

from itertools import pairwise

import numpy as np
from flint import arb  # a ball: all real numbers within a radius of a midpoint
from scipy.optimize import brentq
from sklearn.datasets import load_digits

# --- SAM, for any f: `gradient` is the function x ↦ ∇f(x) -----------------------------------------


def ascend(gradient, x, rho):
    """The shifted point x⁺: uphill from x by the distance ρ; x itself where ∇f(x) = 0."""
    g = gradient(x)
    norm = np.sqrt(g @ g)
    return x if norm == 0 else x + rho * g / norm


def sam(gradient, x, rho, eta, steps):
    """Where SAM is after that many steps from x. With ρ = 0 it is gradient descent."""
    for _ in range(steps):
        x = x - eta * gradient(ascend(gradient, x, rho))
    return x


# --- Part 1: Himmelblau's function, f(x, y) = (x² + y − 11)² + (x + y² − 7)² ----------------------
# Its derivatives need only sums and products, so a point may hold floats, or the balls of part 2.


def himmelblau_gradient(point):
    x, y = point
    p, q = x**2 + y - 11, x + y**2 - 7
    return np.array([4 * x * p + 2 * q, 2 * p + 4 * y * q])


def himmelblau_hessian(point):
    x, y = point
    mixed = 4 * x + 4 * y
    return np.array([[12 * x**2 + 4 * y - 42, mixed], [mixed, 12 * y**2 + 4 * x - 26]])


def hallucinated_points(image, rho):
    """The points x with x⁺ = image, where ∇f(image) = 0.

    They lie on the circle of radius ρ about the image, and there ∇f(x) points at the image. So
    solve for the angles t at which ∇f has no component along the circle, and keep those where it
    points inward. Two zeros between neighbours of the 1000 angles would be missed.
    """

    def place(t):
        return image + rho * np.array([np.cos(t), np.sin(t)])

    def along_circle(t):
        return himmelblau_gradient(place(t)) @ np.array([-np.sin(t), np.cos(t)])

    found = []
    for left, right in pairwise(np.linspace(0, 2 * np.pi, 1001)):
        if (along_circle(left) > 0) != (along_circle(right) > 0):
            x = place(brentq(along_circle, left, right, xtol=1e-15))
            if himmelblau_gradient(x) @ (image - x) > 0:
                found.append(x)
    return found


def shifted_derivative(x, rho):
    """A = ∇²f(x⁺) M, the derivative of x ↦ ∇f(x⁺). A step of SAM has the derivative I − ηA.

    M = I + ρ/‖g‖ (I − uuᵀ) ∇²f(x), with g = ∇f(x) and u = g/‖g‖, is the derivative of x ↦ x⁺.
    """
    g = himmelblau_gradient(x)
    norm = np.sqrt(g @ g)
    u = g / norm
    M = np.eye(2) + rho / norm * (np.eye(2) - np.outer(u, u)) @ himmelblau_hessian(x)
    return himmelblau_hessian(ascend(himmelblau_gradient, x, rho)) @ M


def critical_learning_rate(A):
    """A hallucinated point attracts SAM from nearby for 0 < η < this number; 0 says: for no η.

    It attracts if |1 − ηλ| < 1, that is η|λ|² < 2 Re λ, for each eigenvalue λ of A.
    """
    eigenvalues = np.linalg.eigvals(A)
    return max(0.0, min(2 * eigenvalues.real / abs(eigenvalues) ** 2))


# --- Part 2: a proof by interval arithmetic -------------------------------------------------------


def determinant(m):
    return m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]


def prove(centre, radius, rho, eta):
    """What can be proved of the box of all x with |xᵢ − centreᵢ| ≤ radius; False: not proved.

    Balls in a formula give a ball that holds its value at all their points, rounding included, or
    NaN. An inequality of balls is True only if it holds for all their points, and not for NaN.

    Krawczyk's test: let F(x) = ∇f(x⁺), let A hold its derivatives in the box, and Y be any matrix.
    If K = c − Y F(c) + (I − Y A)(box − c) is in the interior of the box, then x ↦ x − Y F(x) is a
    contraction of the box into itself and Y is invertible. So F has exactly one zero in the box.
    """
    c = np.array([arb(value) for value in centre])
    box = np.array([arb(value, radius) for value in centre])
    A = shifted_derivative(box, rho)
    Y = np.linalg.inv(shifted_derivative(centre, rho))
    K = c - Y @ himmelblau_gradient(ascend(himmelblau_gradient, c, rho))
    K = K + (np.eye(2) - Y @ A) @ (box - c)
    g = himmelblau_gradient(box)
    H = himmelblau_hessian(ascend(himmelblau_gradient, box, rho))
    T = np.eye(2) - eta * A  # |λ(T)| < 1 for both eigenvalues if |tr T| < 1 + det T < 2 (Jury)
    return {
        "∇f(x⁺) = 0 for exactly one x in the box": all(map(arb.contains_interior, box, K)),
        "∇f(x) ≠ 0 for all x in the box": g @ g > 0,
        "∇²f(x⁺) is positive definite for all of them": H[0, 0] > 0 and determinant(H) > 0,
        f"|λ(I − ηA)| < 1 at η = {eta} for all of them": abs(np.trace(T)) < 1 + determinant(T) < 2,
    }


# --- Part 3: a network with one hidden unit, 67 parameters, tells 3 from 8 ------------------------

digits = load_digits()
rows = np.flatnonzero(np.isin(digits.target, (3, 8)))[:100]
IMAGES, IS_EIGHT = digits.data[rows] / 16 - 0.25, digits.target[rows] == 8
DECAY = 0.03  # the weight decay


def outputs(theta):
    """The hidden unit h = tanh(w·image + b) and the output z = vh + c; theta = (w, b, v, c)."""
    h = np.tanh(IMAGES @ theta[:64] + theta[64])
    return h, theta[65] * h + theta[66]


def loss(theta):
    """The logistic loss, in which an image is an 8 with probability 1/(1 + exp(−z)), plus decay."""
    z = outputs(theta)[1]
    return np.mean(np.logaddexp(0, z) - IS_EIGHT * z) + DECAY / 2 * theta @ theta


def loss_gradient(theta):
    h, z = outputs(theta)
    dz = (1 / (1 + np.exp(-z)) - IS_EIGHT) / len(z)  # ∂loss/∂z for each image
    da = dz * theta[65] * (1 - h**2)  # ∂loss/∂(w·image + b)
    return np.concatenate([da @ IMAGES, [da.sum(), dz @ h, dz.sum()]]) + DECAY * theta


def report_function(rho=4.5, eta=0.004):
    print(f"1. Himmelblau's function, ρ = {rho}: hallucinated points, image: the minimizer (3, 2)")
    points = hallucinated_points(np.array([3, 2]), rho)
    limits = [critical_learning_rate(shifted_derivative(x, rho)) for x in points]
    for x, limit in zip(points, limits, strict=True):
        size = np.linalg.norm(himmelblau_gradient(x))
        rates = f"for 0 < η < {limit:.6f}" if limit > 0 else "for no η"
        print(f"   x = {x}, ‖∇f(x)‖ = {size:.3f}, attracts {rates}")
    x, limit = points[0], limits[0]
    print("   SAM from 0.001 beside the first in each coordinate: its distance after 1000 steps")
    for rate in (0.95 * limit, 1.05 * limit):
        end = sam(himmelblau_gradient, x + 0.001, rho, rate, 1000)
        print(f"   {np.linalg.norm(end - x):.0e} with η = {rate:.6f}")
    print("2. The box of half-width 1e-6 about the first point")
    for claim, proved in prove(x, 1e-6, rho, eta).items():
        print(f"   {'proved' if proved else 'not proved'}: {claim}")


def report_network(rho=3.5, eta=0.05):
    print(f"3. The network, ρ = {rho}, η = {eta}: SAM, and gradient descent from the same weights")
    print("   steps   ‖∇f(x⁺)‖/‖∇f(x)‖   ‖∇f(x)‖    f(x)   f(x⁺)   descent: f(x)")
    # At first a parameter that meets n inputs is uniform in ±1/√n: 64 pixels, or one hidden unit.
    theta = descent = np.random.default_rng(0).uniform(-1, 1, 67) / np.repeat([8, 1], [65, 2])
    done = 0
    for steps in (0, 500, 1000, 2000, 4000, 8000, 12000):
        theta = sam(loss_gradient, theta, rho, eta, steps - done)
        descent = sam(loss_gradient, descent, 0, eta, steps - done)
        done, image = steps, ascend(loss_gradient, theta, rho)
        here, there = (np.linalg.norm(loss_gradient(x)) for x in (theta, image))
        losses = f"{loss(theta):10.4f}{loss(image):8.4f}{loss(descent):16.4f}"
        print(f"   {steps:5d}{there / here:19.0e}{here:10.4f}{losses}")


if __name__ == "__main__":
    report_function()
    report_network()
