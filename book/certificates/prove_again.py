"""A second proof of a stored network certificate, with python-flint and the standard library alone.

f is the mean loss of a network with one hidden layer of tanh units over its samples, plus half the
decay times ‖x‖², x being all weights and biases; u = ∇f/‖∇f‖, x⁺ = x + ρu(x),
F(x) = ∇f(x⁺), A = DF = ∇²f(x⁺)M with M = I + ρ/‖∇f‖ (I − uuᵀ)∇²f(x); SAM's step is x − ηF(x).
``prove`` shows that

1. F has a zero x_h within ``radius`` of the centre in each coordinate, and ‖∇f(x_h)‖ is at least
   ``grad_norm``;
2. ∇²f(x_h⁺) has the claimed inertia, A(x_h) the claimed bounds of Re λ and of η_max;
3. SAM in exact arithmetic converges to x_h from each start with ‖x − x_h‖ ≤ ``basin["radius"]``,
   for every η > 0 up to ``basin["eta"]`` (``basin["box"]`` is not among the claims);
4. F has no other zero within ``unique_within`` of the centre in each coordinate.

The larger ``box_radius``, the losses and the origin of the data are not proved here.

Numbers are balls, which surely contain the true value; a < b holds only if it does for all that the
balls contain; a matrix of balls stands for every matrix in it. Midpoints serve to choose matrices
that make proofs short: a bad choice makes a proof fail, and never proves a falsehood. Run as a
program, this takes decimals as the file writes them (``parse_float=str``), not as floats.
"""

import json
import sys
from fractions import Fraction
from itertools import product

from flint import acb_mat, arb, arb_mat, ctx, fmpq


class NotProved(Exception):
    """The certificate claims what was not proved; the message says what."""


def demand(holds, claim):
    if not holds:
        raise NotProved(claim)


def ball(value):
    return arb(fmpq(*Fraction(str(value)).as_integer_ratio()))  # as written: 0.1 is 1/10


def part(matrix, rows):
    return arb_mat([[matrix[i, j] for j in rows] for i in rows])


def length(column):
    return (column.transpose() * column)[0, 0].sqrt()


def read(net):
    """The loss, samples (x, 1), targets y and decay; and the places in the file of the weights in
    our order: for each hidden unit its input weights, bias, output weights; then output biases.
    """
    xs = [[ball(Fraction(v, net["x_denominator"])) for v in x] + [arb(1)] for x in net["x"]]
    ys = net["y"]
    if net["loss"] == "ce":  # labels 0, 1, …
        ys = [[int(a == y) for a in range(max(ys) + 1)] for y in ys]
    ys = [[ball(Fraction(v, net["y_denominator"])) for v in y] for y in ys]
    d, h, k, where = len(xs[0]) - 1, net["hidden"], len(ys[0]), []
    sums = {"mse": None, "ce": (1,), "logistic": (0, 1) if k == 1 else ()}[net["loss"]]
    demand(sums is None or all(sum(y) in sums for y in ys), "labels that fit the loss")
    for j in range(h):
        where += [*range(j * d, j * d + d), h * d + j, *range(h * d + h + j, h * (d + 1 + k), h)]
    return (net["loss"], xs, ys, ball(net["decay"])), [*where, *range(len(where), len(where) + k)]


def derivative(net, theta, order):
    """∇f(θ) as a column or, if order is 2, ∇²f(θ). A sample has t = tanh(w·(x, 1)), z = Σ tv + c.

    With J = ∂z/∂θ, r = ∂loss/∂z and C = ∂²loss/∂z², the chain rule says that ∇loss = Jᵀr and
    ∇²loss = JᵀCJ + K + Kᵀ, where K + Kᵀ is the second derivative of r·z with r held fixed.
    """
    loss, xs, ys, decay = net
    n, d, k, p = len(xs), len(xs[0]), len(ys[0]), len(theta)
    starts = range(0, p - k, d + k)
    w = arb_mat([theta[i : i + d] for i in starts])
    v = arb_mat([theta[i + d : i + d + k] for i in starts])
    gradient, curvature = arb_mat(p, 1), arb_mat(p, p)
    js, cjs, ks = [], [], [[] for _ in starts]
    for x, y in zip(xs, ys, strict=True):
        t = [a.tanh() for a in (w * arb_mat(d, 1, x)).entries()]
        z = (arb_mat([t]) * v + arb_mat([theta[p - k :]])).entries()
        if loss == "mse":  # ½‖z − y‖²
            q, c = z, arb_mat(k, k, 1)
        else:  # −log of the label's probability; logistic: of two classes, the other has output 0
            q = [1 / sum((b - a).exp() for b in z + [arb(0)] * (loss == "logistic")) for a in z]
            c = arb_mat([[q[a] * ((a == b) - q[b]) for b in range(k)] for a in range(k)])
        r = arb_mat(k, 1, [a - b for a, b in zip(q, y, strict=True)])
        rows, back = [[] for _ in range(k)], (v * r).entries()
        for j, s in enumerate(t):
            slope = 1 - s * s
            for a, row in enumerate(rows):
                row += [v[j, a] * slope * e for e in x] + [s * (a == b) for b in range(k)]
            # Twice by w: −2t(1 − t²)(v·r)xxᵀ, of which K has half. By w and v: (1 − t²)xrᵀ.
            ks[j].append([-s * slope * back[j] * e for e in x] + [slope * e for e in r.entries()])
        jacobian = arb_mat([row + [arb(a == b) for b in range(k)] for a, row in enumerate(rows)])
        gradient += jacobian.transpose() * r
        js, cjs = js + jacobian.tolist(), cjs + (c * jacobian).tolist()
    if order == 1:
        return gradient / n + decay * arb_mat(p, 1, theta)
    for i, rows in zip(starts, ks, strict=True):
        block = arb_mat(xs).transpose() * arb_mat(rows)
        for a, b in product(range(d), range(d + k)):
            curvature[i + a, i + b] = block[a, b]
    curvature += curvature.transpose() + arb_mat(js).transpose() * arb_mat(cjs)
    return curvature / n + decay * arb_mat(p, p, 1)


def shifted(net, rho, centre, radii):
    """F(centre), and for all x with |x − centre| ≤ radii: ‖∇f(x)‖, ∇²f(x⁺) and A(x).

    By the mean value theorem ∇f(x) lies in ∇f(centre) + ∇²f(box)(x − centre); the same for x⁺.
    """
    p = len(centre)
    middle, offset = arb_mat(p, 1, centre), arb_mat(p, 1, [arb(0, r) for r in radii])
    g = derivative(net, centre, 1)
    image = middle + g * (rho / length(g))
    hessian = derivative(net, (middle + offset).entries(), 2)
    g += hessian * offset
    u = g / length(g)
    m = arb_mat(p, p, 1) + (hessian - u * (u.transpose() * hessian)) * (rho / length(g))
    hessian = derivative(net, (image + m * offset).entries(), 2)
    return derivative(net, image.entries(), 1), length(g), hessian, hessian * m


def pivots(matrix):
    """The pivots of Gauss's elimination, D in S = LDLᵀ, for all symmetric S in the matrix.

    By Sylvester's law of inertia S has as many positive and negative eigenvalues as D.
    """
    rows = [row[i:] for i, row in enumerate(matrix.tolist())]
    for i, head in enumerate(rows):
        demand(head[0] > 0 or head[0] < 0, "the signs of the eigenvalues")
        for j, row in enumerate(rows[i + 1 :], 1):
            ratio = head[j] / head[0]
            row[:] = [a - ratio * b for a, b in zip(row, head[j:], strict=True)]
    return [row[0] for row in rows]


def damped(b, eta):
    """Whether B + Bᵀ − ηBᵀB ≻ 0 for B = V⁻¹AV, that is AᵀP + PA − ηAᵀPA ≻ 0 with P = (VVᵀ)⁻¹.

    Then B is regular. If η = 0, Re λ(A) > 0. If η > 0, I − ηA shrinks the norm ‖V⁻¹x‖, so that
    |1 − ηλ(A)| < 1, and the same holds for each smaller η > 0.
    """
    return all(e > 0 for e in pivots(b + b.transpose() - eta * (b.transpose() * b)))


def basis(a):
    """A real matrix V that makes V⁻¹AV about diagonal, with 2×2 blocks for complex pairs."""
    values, vectors = acb_mat(a.mid()).eig(right=True, algorithm="approx")
    n, found = a.nrows(), []
    for value, v in zip(values, vectors.transpose().tolist(), strict=True):
        v = acb_mat(n, 1, v)
        v = arb_mat(n, 1, [e.real + e.imag for e in (v / length(v)).entries()])
        for other, w in found:
            if abs(value - other) < ball("1e-20"):  # orthogonal within an eigenspace
                v -= w * (w.transpose() * v)[0, 0]
        found.append((value, v / length(v)))
    return arb_mat([v.entries() for _, v in found]).transpose().mid()


def prove(certificate):
    """What was proved of a certificate, as a dict; raises NotProved if a claim was not."""
    try:
        with ctx.workprec(192):
            return _prove(certificate)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise NotProved(f"the certificate is unusable: {error!r}") from error


def _prove(certificate):
    rho, radius, basin = ball(certificate["rho"]), ball(certificate["radius"]), certificate["basin"]
    start, eta, eta_max = map(ball, (basin["radius"], basin["eta"], certificate["eta_max"]))
    demand(all(e > 0 for e in (rho, radius, start, eta, eta_max)), "positive numbers")
    net, where = read(certificate["landscape"])
    p, size = len(where), len(net[1][0]) + len(net[2][0])
    demand(len(certificate["centre"]) == p, "one coordinate for each weight")
    centre = [ball(certificate["centre"][i]) for i in where]

    # Where all weights of a unit are below the radius, x_h is sought with zeros: the unit is dead.
    units = [range(i, i + size) for i in range(0, p - size + 1, size)]
    dead = [unit for unit in units if all(abs(centre[i]) < radius for i in unit)]
    live = [i for i in range(p) if not any(i in unit for unit in dead)]
    x = [centre[i] if i in live else arb(0) for i in range(p)]
    value, norm, image, a = shifted(net, rho, x, [radius if i in live else 0 for i in range(p)])
    # As long as dead weights are 0, ∇²f(x⁺) and A fall into blocks, and the dead part of F is 0.
    groups = [live, *dead]
    outside = [(i, j) for group in groups for i in group for j in set(range(p)).difference(group)]
    demand(all(image[e] == 0 == a[e] for e in outside), "a block for each dead unit")
    demand(all(value[i, 0] == 0 for unit in dead for i in unit), "F = 0 in dead units")

    # Krawczyk: x ↦ x − CF(x) maps the box into its interior; by Brouwer it has a fixed point. All
    # row sums of |I − CA| are below 1, so C is regular, and F is 0 at that point.
    c = part(a, live).mid().inv().mid()
    moves = (c * arb_mat([[value[i, 0]] for i in live])).entries()
    defect = (arb_mat(len(live), len(live), 1) - c * part(a, live)).tolist()
    reach = [abs(m) + radius * sum(map(abs, row)) for m, row in zip(moves, defect, strict=True)]
    demand(all(r < radius for r in reach), "a zero of F in the box")
    demand(norm >= ball(certificate["grad_norm"]), "grad_norm")

    signs = [e > 0 for group in groups for e in pivots(part(image, group))]
    demand(certificate["inertia"] == [sum(signs), p - sum(signs), 0], "inertia")
    v, inverse = arb_mat(p, p), arb_mat(p, p)
    for group in groups:
        block = basis(part(a, group))
        back = block.inv()
        b = back * part(a, group) * block
        demand(damped(b, eta_max), "eta_max")
        b -= ball(certificate["min_real_part"]) * arb_mat(len(group), len(group), 1)
        demand(damped(b, 0), "min_real_part")
        for (m, i), (n, j) in product(enumerate(group), repeat=2):
            v[i, j], inverse[i, j] = block[m, n], back[m, n]

    # The basin. |x − x_h| ≤ start gives ‖V⁻¹(x − x_h)‖ ≤ ‖V⁻¹‖·start, and all x with this lie in a
    # box, on which I − ηA shrinks the norm. ‖V⁻¹‖² is at most the largest row sum of |P|.
    rows = (inverse.transpose() * inverse).tolist()
    reach = start * max(sum(map(abs, row)).upper() for row in rows).sqrt()
    reach = reach * max(length(arb_mat([row]).transpose()).upper() for row in v.tolist()) + radius
    box = (reach * ball("1.01")).str(3, radius=False)  # a decimal, a little larger
    wide = shifted(net, rho, centre, [ball(box)] * p)[3]
    demand(ball(box) > reach and damped(inverse * wide * v, eta), "basin")

    kind = "saddle" if len(set(signs)) == 2 else "minimizer" if signs[0] else "maximizer"
    proved = {"exists", "unique", "gradient is nonzero", "attracts", "basin", f"image is {kind}"}
    demand(proved.issuperset(certificate["proved"]), f"no more than {sorted(proved)}")
    count = len(units) - len(dead)
    demand(certificate.get("live_units") in (count, None), f"{count} live units")
    names = ("radius", "grad_norm", "inertia", "min_real_part", "eta_max", "basin")
    return {name: certificate[name] for name in names} | {"unique_within": box, "live_units": count}


if __name__ == "__main__":  # python prove_again.py < digits-3v8.json
    print(prove(json.load(sys.stdin, parse_float=str)))
