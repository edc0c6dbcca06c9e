/* The mathematics of the lab, held to Python by tests/unit/lab/test_lab_js.py.
 *
 * Points are pairs [x, y]; on the line y stays 0. f, ∇f and ∇²f are not in this file: they come with
 * the trait `sources`, printed from SymPy expressions. Workers are made from this file's text, so it
 * imports nothing.
 */

export const FAR = 1e6; // beyond this distance an iterate counts as gone to infinity
export const GONE = 255; // the label of a start whose iterates leave
const CHECK = 8; // basins ask every so many steps whether the iterate is already caught
const MANY = 72; // more critical points than this are taken for samples of a curve, and thinned

// ---- Landscapes and rules ----

/** Compile an entry {dim, box, js} of the trait `sources`; js is what Landscape.javascript()
 *  printed. The functions that call ∇f often are evaluated anew for each landscape, so that the
 *  engine can inline it. */
export function compile({ dim, box, js }) {
	const source = `
		const { FAR, GONE, CHECK } = constants;
		${[inPlane, updateRules, caught, follower].join("\n")}
		const land = ${dim === 1 ? "inPlane" : ""}(${js});
		return { ...land, rules: updateRules(land), ...follower() };`;
	return { ...new Function("constants", source)({ FAR, GONE, CHECK }), dim, box };
}

/** A function on the line as one in the plane. */
function inPlane(land) {
	return {
		f: land.f,
		grad: (x) => [land.grad(x)[0], 0],
		hess: (x) => [[land.hess(x)[0][0], 0], [0, 1]],
	};
}

/** The update rules, held to Python's: rule(x, rho) is [direction, x⁺], four numbers. */
function updateRules({ grad, hess }) {
	/** 1/‖(a, b)‖; a zero gradient gives x⁺ = x. */
	const inverse = (a, b) => 1 / (Math.sqrt(a * a + b * b) || 1);
	return {
		gd(x) {
			const g = grad(x);
			return [g[0], g[1], x[0], x[1]];
		},
		sam(x, rho) {
			const g = grad(x), s = rho * inverse(g[0], g[1]);
			const plus = [x[0] + g[0] * s, x[1] + g[1] * s], q = grad(plus);
			return [q[0], q[1], plus[0], plus[1]];
		},
		exact(x, rho) {
			const g = grad(x), h = hess(x);
			const s = inverse(g[0], g[1]), u = [g[0] * s, g[1] * s], r = rho * s;
			const plus = [x[0] + rho * u[0], x[1] + rho * u[1]], q = grad(plus);
			const along = u[0] * q[0] + u[1] * q[1], t = [q[0] - u[0] * along, q[1] - u[1] * along];
			const bent = [h[0][0] * t[0] + h[0][1] * t[1], h[1][0] * t[0] + h[1][1] * t[1]];
			return [q[0] + r * bent[0], q[1] + r * bent[1], plus[0], plus[1]];
		},
	};
}

/** The label of the region that holds (x, y), 0 outside all. A region is seven numbers: see
 *  `regions`. */
function caught(x, y, areas) {
	for (let i = 0; i < areas.length; i += 7) {
		const a = x - areas[i], b = y - areas[i + 1];
		const square = areas[i + 2] * a * a + 2 * areas[i + 3] * a * b + areas[i + 4] * b * b;
		if (square <= areas[i + 5]) return areas[i + 6];
	}
	return 0;
}

/** {follow, end}: follow(…) is the label of where the iterates from (x, y) end; `end` keeps the
 *  last one. With `early`, stop once a region has caught them (regions are invariant) or the
 *  iterates repeat exactly: neither can change the label. */
function follower() {
	const end = [0, 0];
	function follow(rule, x, y, rho, eta, steps, areas, early) {
		let left = steps, oldX = NaN, oldY = NaN;
		while (left > 0) {
			for (let j = left < CHECK ? left : CHECK; j > 0; j--, left--) {
				const d = rule([x, y], rho);
				x -= eta * d[0];
				y -= eta * d[1];
			}
			if (!(x * x + y * y < FAR * FAR)) return GONE;
			if (!early) continue;
			const label = caught(x, y, areas);
			if (label) return label;
			if (x === oldX && y === oldY) left %= CHECK;
			oldX = x;
			oldY = y;
		}
		end[0] = x;
		end[1] = y;
		return caught(x, y, areas);
	}
	return { follow, end };
}

export const norm = (v) => Math.sqrt(v[0] * v[0] + v[1] * v[1]);
export const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const times = (a, b) => [0, 1].map((i) => [0, 1].map((j) => a[i][0] * b[0][j] + a[i][1] * b[1][j]));
/** The map T: one step of a rule. */
export const stepper = (land, rho, eta, rule) => (x) => {
	const d = land.rules[rule](x, rho);
	return [x[0] - eta * d[0], x[1] - eta * d[1]];
};

// ---- Trajectories ----

/** The path of a rule and its traces: arrays of steps + 1 entries. */
export function trajectory(land, start, rho, eta, steps, rule) {
	const path = { x: [], plus: [], loss: [], gradNorm: [], shiftedLoss: [], shiftedGradNorm: [] };
	let x = [start[0], land.dim === 1 ? 0 : start[1]];
	for (let k = 0; k <= steps; k++) {
		const d = land.rules[rule](x, rho), plus = [d[2], d[3]];
		path.x.push(x);
		path.plus.push(plus);
		path.loss.push(land.f(x));
		path.shiftedLoss.push(land.f(plus));
		path.gradNorm.push(norm(land.grad(x)));
		path.shiftedGradNorm.push(norm(land.grad(plus)));
		x = [x[0] - eta * d[0], x[1] - eta * d[1]];
	}
	path.next = x;
	path.gradRatio = path.shiftedGradNorm.map((g, k) => g / (path.gradNorm[k] + 1e-12));
	return path;
}

/** samlib.diagnostics.verdicts.verdict without a gradient descent twin: what the last 5 % of the
 *  steps show. */
export function verdict(path) {
	const tail = (values) => values.slice(-Math.max(1, Math.floor(values.length / 20)));
	const traces = [path.loss, path.gradNorm, path.shiftedGradNorm, path.gradRatio];
	const [loss, grads, shifted, ratio] = traces.map(tail);
	const sorted = [...loss].sort((a, b) => a - b), n = sorted.length;
	const median = (sorted[(n - 1) >> 1] + sorted[n >> 1]) / 2;
	if (![...loss, ...grads, ...shifted].every(Number.isFinite)) return "diverged";
	if (Math.max(...ratio) < 1e-6 && Math.min(...grads) > 1e-3) return "hallucinated";
	if (median > 100 * Math.abs(path.loss[0])) return "diverged";
	return Math.max(...grads, ...shifted) < 1e-6 ? "converged" : "running";
}

// ---- Critical and hallucinated points ----

/** The eigenvalues {re, im} of a matrix (its first entry on the line), and how many have a
 *  positive, a zero and a negative real part. */
function spectrum([[a, b], [c, d]], dim) {
	const mean = (a + d) / 2, inner = ((a - d) / 2) ** 2 + b * c, root = Math.sqrt(Math.abs(inner));
	let values = [1, -1].map((s) => ({ re: mean, im: s * root }));
	if (inner >= 0) values = [1, -1].map((s) => ({ re: mean + s * root, im: 0 }));
	if (dim === 1) values = [{ re: a, im: 0 }];
	const tiny = 1e-7 * Math.max(...values.map((v) => Math.hypot(v.re, v.im)));
	const plus = values.filter((v) => v.re > tiny), minus = values.filter((v) => v.re < -tiny);
	return { values, plus, zeros: values.length - plus.length - minus.length, minus };
}

/** Points spread over the box, grown by `margin` of its size on every side. */
function grid(box, n, margin) {
	const place = (i) => (1 + 2 * margin) * ((i + 0.5) / n) - margin;
	const line = ([low, high]) => Array.from({ length: n }, (_, i) => low + (high - low) * place(i));
	return line(box[0]).flatMap((x) => (box[1] ? line(box[1]).map((y) => [x, y]) : [[x, 0]]));
}

/** Where Newton's method for ∇f = 0 leads from x. */
function newton(land, x, size) {
	for (let k = 0, length = 1; k < 60 && length > 1e-15; k++) {
		const [g0, g1] = land.grad(x), [[a, b], [c, d]] = land.hess(x), det = a * d - b * c;
		const step = [(d * g0 - b * g1) / det, (a * g1 - c * g0) / det];
		if (!Number.isFinite(norm(step))) break;
		length = norm(step) / size;
		x = [x[0] - step[0], x[1] - step[1]];
	}
	return x;
}

/** Critical points of f in and near the box, by Newton's method. A curve of them is sampled. */
export function criticalPoints(land) {
	const { dim, box } = land, size = Math.hypot(...box.map(([low, high]) => high - low));
	const close = ([low, high], v) => Math.abs(2 * v - low - high) <= 1.5 * (high - low);
	const near = (x) => box.every((side, i) => close(side, x[i]));
	const apart = (list, x, gap) => !list.some((p) => distance(p, x) < gap);
	let found = [];
	for (const seed of grid(box, dim === 1 ? 200 : 29, 0.1)) {
		const x = newton(land, seed, size), h = land.hess(x);
		const still = norm(land.grad(x)) < 1e-9 * (1 + Math.abs(h[0][0]) + Math.abs(h[1][1]));
		if (near(x) && still && apart(found, x, 1e-5 * size)) found.push(x);
	}
	if (found.length > MANY) {
		found = found.reduce((kept, x) => (apart(kept, x, size / 28) ? [...kept, x] : kept), []);
	}
	const onCurve = (x) => spectrum(land.hess(x), dim).zeros > 0;
	return found.map((x) => ({ x, kind: kindOf(land, x), curve: onCurve(x) }));
}

/** What a critical point is. */
export function kindOf(land, x) {
	const { plus, minus } = spectrum(land.hess(x), land.dim);
	return !minus.length ? "minimizer" : plus.length ? "saddle" : "maximizer";
}

/** What a hallucinated point is, from the eigenvalues of A = H_*M with M = I + (ρ/‖g‖) P H_h. */
function classify(land, x, image, rho) {
	const g = land.grad(x), n = norm(g), u = [g[0] / n, g[1] / n];
	const P = [[1 - u[0] * u[0], -u[0] * u[1]], [-u[0] * u[1], 1 - u[1] * u[1]]];
	const PH = times(P, land.hess(x));
	const M = PH.map((row, i) => row.map((v, j) => (i === j ? 1 : 0) + (rho / n) * v));
	const { plus, zeros, minus } = spectrum(times(land.hess(image.x), M), land.dim);
	const etaMax = Math.min(...plus.map((v) => (2 * v.re) / (v.re ** 2 + v.im ** 2)));
	if (minus.length) return { x, image, kind: plus.length ? "saddle" : "repelling", etaMax: null };
	return { x, image, kind: zeros ? "neutral" : "attracting", etaMax };
}

/** Hallucinated points: critical points of f on the sphere S_ρ(x_*) at which ∇f points inward. */
export function hallucinated(land, critical, rho) {
	const points = [];
	for (const image of rho > 0 ? critical : []) {
		const at = (angle) => [image.x[0] + rho * Math.cos(angle), image.x[1] + rho * Math.sin(angle)];
		for (const angle of land.dim === 1 ? [0, Math.PI] : criticalAngles(land, at)) {
			const x = at(angle), g = land.grad(x);
			const outward = g[0] * Math.cos(angle) + g[1] * Math.sin(angle);
			if (outward < 0 && norm(g) > 1e-6) points.push(classify(land, x, image, rho));
		}
	}
	return points;
}

/** The angles of the critical points of f on a circle, where the tangential slope changes sign;
 *  samples of them where the whole circle is critical. */
function criticalAngles(land, at) {
	const n = 720;
	const angles = Array.from({ length: n + 1 }, (_, i) => ((i + 0.377) * 2 * Math.PI) / n);
	const slope = (angle) => {
		const g = land.grad(at(angle));
		return g[1] * Math.cos(angle) - g[0] * Math.sin(angle);
	};
	if (angles.every((a) => Math.abs(slope(a)) < 1e-9 * norm(land.grad(at(a))))) {
		return angles.filter((_, i) => i % 30 === 0);
	}
	const crossings = [];
	for (let i = 0; i < n; i++) {
		let low = angles[i], high = angles[i + 1];
		const sign = slope(low);
		if (!(sign * slope(high) < 0)) continue;
		for (let k = 0; k < 50; k++) {
			const middle = (low + high) / 2;
			if (slope(middle) * sign > 0) low = middle;
			else high = middle;
		}
		crossings.push((low + high) / 2);
	}
	return crossings;
}

// ---- Basins ----

/** What iterates can end at: critical and hallucinated points and, met by probes, other zeros of
 *  the exact gradient. Each is {x, kind, curve}: is it a sample of a curve of them? */
function limitPoints(land, critical, rho, eta, rule) {
	const found = rule === "gd" ? [] : hallucinated(land, critical, rho);
	const isCurve = ({ kind }) => kind === "neutral";
	const known = [
		...critical,
		...found.map((p) => ({ x: p.x, kind: "hallucinated", curve: isCurve(p) })),
	];
	if (rule !== "exact" || !(eta > 0)) return known;
	const probed = [], T = stepper(land, rho, eta, rule);
	for (let x of grid(land.box, 12, 0)) {
		for (let k = 0; k < 600; k++) x = T(x);
		const d = land.rules[rule](x, rho);
		if (!(Math.hypot(d[0], d[1]) < 1e-9)) continue;
		if ([...known, ...probed].some((p) => distance(p.x, x) < 1e-4)) continue;
		probed.push({ x, kind: norm(land.grad([d[2], d[3]])) < 1e-6 ? "hallucinated" : "surrogate" });
	}
	return [...known, ...probed.map((p) => ({ ...p, curve: probed.length > 12 }))];
}

/** Around each limit the largest ellipse, on a ladder of sizes, that a step maps into itself (tried
 *  on samples of it): iterates that enter never leave. The samples of a curve share a label.
 *  Returns the kinds by label − 1, the label of each limit, and the regions (z − x)ᵀP(z − x) ≤ r²
 *  as x, y, P₁₁, P₁₂, P₂₂, r², label. */
function regions(land, points, rho, eta, rule) {
	const T = stepper(land, rho, eta, rule), groups = [], areas = [];
	const labels = points.map(({ x, kind, curve }) => {
		const mates = curve ? groups.findIndex((g) => g.curve && g.kind === kind) : -1;
		if (mates >= 0) groups[mates].members.push(x);
		return mates >= 0 ? mates + 1 : groups.push({ kind, curve, members: [x] });
	});
	groups.forEach((group, index) => {
		// ∇f^SAM holds ρ/‖∇f‖: it has no bound near a critical point, and so no such ellipse
		if (rule === "exact" && !["hallucinated", "surrogate"].includes(group.kind)) return;
		const others = groups.filter((g) => g !== group).flatMap((g) => g.members);
		areas.push(...trap(land, T, group, others, index + 1));
	});
	return { kinds: groups.map((g) => g.kind), labels, areas: Float64Array.from(areas) };
}

/** The regions of one group of limits, away from the others; none if no size on the ladder will
 *  do. */
function trap(land, T, { members, curve }, others, label) {
	const P = curve ? [1, 0, 1] : metric(T, members[0]);
	const gap = Math.min(1e3, ...members.flatMap((x) => others.map((o) => distance(o, x))));
	for (let r = 0.49 * gap, rung = 0; rung < 24; rung++, r *= 0.75) {
		const area = members.flatMap((x) => [...x, ...P, r * r, label]);
		const inner = area.map((v, i) => (i % 7 === 5 ? v * 0.98 : v));
		const stays = (x) => samples(x, P, r, land.dim).every((y) => caught(...T(y), inner));
		if (members.every(stays)) return area;
	}
	return [];
}

/** P = Σ (DTᵏ)ᵀDTᵏ, the norm in which T contracts near a stable fixed point, scaled to have the
 *  least eigenvalue 1. The identity where DT does not exist or does not contract. */
function metric(T, x) {
	const h = 1e-6, slope = (u, v) => {
		const ahead = T([x[0] + u, x[1] + v]), behind = T([x[0] - u, x[1] - v]);
		return [0, 1].map((i) => (ahead[i] - behind[i]) / (2 * h));
	};
	const [[a, c], [b, d]] = [slope(h, 0), slope(0, h)];
	let power = [[1, 0], [0, 1]], p = [0, 0, 0];
	for (let k = 0; k < 400; k++) {
		const [[q, r], [s, t]] = power;
		p = [p[0] + q * q + s * s, p[1] + q * r + s * t, p[2] + r * r + t * t];
		power = times([[a, b], [c, d]], power);
	}
	const least = (p[0] + p[2]) / 2 - Math.hypot((p[0] - p[2]) / 2, p[1]);
	const contracts = Math.max(...power.flat().map(Math.abs)) < 1e-3;
	return contracts && least > 0 ? p.map((v) => v / least) : [1, 0, 1];
}

/** Points of the ellipse of size r around x and of its rim. */
function samples(x, [p, q, s], r, dim) {
	const parts = [0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1];
	return Array.from({ length: dim === 1 ? 2 : 32 }, (_, i) => {
		const angle = dim === 1 ? i * Math.PI : ((i + 0.21) * Math.PI) / 16;
		const c = Math.cos(angle), d = Math.sin(angle);
		const reach = r / Math.sqrt(p * c * c + 2 * q * c * d + s * d * d);
		return parts.map((t) => [x[0] + t * reach * c, x[1] + t * reach * d]);
	}).flat();
}

/** The limit around which x goes to and fro, or −1: a critical point, where u turns over, or a
 *  hallucinated one. */
function straddled(T, x, points) {
	const y = T(x), middle = [(x[0] + y[0]) / 2, (x[1] + y[1]) / 2];
	const away = points.map((p) => distance(p.x, middle));
	const nearest = away.indexOf(Math.min(...away)), length = distance(x, y);
	return distance(T(y), x) <= 1e-3 * length && away[nearest] <= length / 4 ? nearest : -1;
}

/** Labels of the starts in a window, row by row from the top, of every stride-th row: 0 is
 *  undecided, GONE left for infinity, k + 1 ended in a region of kinds[k]. */
export function basins(land, request) {
	const { window: [x0, x1, y0, y1], width, height, rho, eta, rule, steps } = request;
	const { first = 0, stride = 1, early = true } = request;
	const points = limitPoints(land, criticalPoints(land), rho, eta, rule), rows = [];
	const { kinds, areas, labels } = regions(land, points, rho, eta, rule);
	const step = land.rules[rule], T = stepper(land, rho, eta, rule);
	for (let j = first; j < height; j += stride) {
		const y = land.dim === 1 ? 0 : y1 - ((y1 - y0) * (j + 0.5)) / height;
		const row = new Uint8Array(width);
		for (let i = 0; i < width; i++) {
			const x = x0 + ((x1 - x0) * (i + 0.5)) / width;
			const label = land.follow(step, x, y, rho, eta, steps, areas, early);
			row[i] = label || (labels[straddled(T, land.end, points)] ?? 0);
		}
		rows.push(row);
	}
	return { kinds, rows };
}
