/* The live laboratory of samlib: an anywidget module; without a kernel host.js runs it.
 *
 * 1. Mathematics, held to Python by tests/unit/lab/test_lab_js.py
 * 2. State and links   3. Words   4. Workers   5. Drawing   6. The widget
 *
 * f, ∇f and ∇²f are not in this file: they come with the trait `sources`, printed from SymPy expressions.
 */

// ==== 1. Mathematics ====
// Points are pairs [x, y]; on the line y stays 0. Self-contained: workers are made from the function's source text.

function mathematics() {
	const FAR = 1e6; // beyond this distance an iterate counts as gone to infinity
	const GONE = 255; // the label of a start whose iterates leave
	const CHECK = 8; // basins ask every so many steps whether the iterate is already caught
	const MANY = 72; // more critical points than this are taken for samples of a curve, and thinned

	/** The update rules, held to Python's: rule(x, rho) is [direction, x⁺], four numbers. Evaluated anew for each
	 *  landscape, so that the engine can inline its ∇f. */
	function equip(land, { FAR, GONE, CHECK }) {
		const { grad, hess } = land;
		const inverse = (a, b) => 1 / (Math.sqrt(a * a + b * b) || 1); // 1/‖(a, b)‖; a zero gradient gives x⁺ = x
		const rules = {
			gd(x) {
				const g = grad(x);
				return [g[0], g[1], x[0], x[1]];
			},
			sam(x, rho) {
				const g = grad(x), s = rho * inverse(g[0], g[1]), plus = [x[0] + g[0] * s, x[1] + g[1] * s], q = grad(plus);
				return [q[0], q[1], plus[0], plus[1]];
			},
			exact(x, rho) {
				const g = grad(x), s = inverse(g[0], g[1]), u = [g[0] * s, g[1] * s], r = rho * s, h = hess(x);
				const plus = [x[0] + rho * u[0], x[1] + rho * u[1]], q = grad(plus);
				const along = u[0] * q[0] + u[1] * q[1], t = [q[0] - u[0] * along, q[1] - u[1] * along];
				const bent = [h[0][0] * t[0] + h[0][1] * t[1], h[1][0] * t[0] + h[1][1] * t[1]];
				return [q[0] + r * bent[0], q[1] + r * bent[1], plus[0], plus[1]];
			},
		};

		/** The label of the region that holds (x, y), 0 outside all. A region is seven numbers: see `regions`. */
		function caught(x, y, areas) {
			for (let i = 0; i < areas.length; i += 7) {
				const a = x - areas[i], b = y - areas[i + 1];
				if (areas[i + 2] * a * a + 2 * areas[i + 3] * a * b + areas[i + 4] * b * b <= areas[i + 5]) return areas[i + 6];
			}
			return 0;
		}

		/** The label of where the iterates from (x, y) end; `end` keeps the last one. With `early`, stop once a region has
		 *  caught them (regions are invariant) or the iterates repeat exactly: neither can change the label. */
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
		return { ...land, rules, caught, follow, end };
	}

	/** Compile an entry {dim, box, js} of the trait `sources`; js is what Landscape.javascript() printed. */
	function compile({ dim, box, js }) {
		const pad = (land) => ({
			f: land.f,
			grad: (x) => [land.grad(x)[0], 0],
			hess: (x) => [[land.hess(x)[0][0], 0], [0, 1]],
		});
		const source = `return (${equip})((${dim === 1 ? pad : "(land) => land"})(${js}), constants);`;
		return { ...new Function("constants", source)({ FAR, GONE, CHECK }), dim, box };
	}

	const norm = (v) => Math.sqrt(v[0] * v[0] + v[1] * v[1]);
	const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
	const times = (a, b) => [0, 1].map((i) => [0, 1].map((j) => a[i][0] * b[0][j] + a[i][1] * b[1][j]));
	const stepper = (land, rho, eta, rule) => (x) => {
		const d = land.rules[rule](x, rho);
		return [x[0] - eta * d[0], x[1] - eta * d[1]];
	};

	/** The path of a rule and its traces: arrays of steps + 1 entries. */
	function trajectory(land, start, rho, eta, steps, rule) {
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

	/** samlib.diagnostics.verdicts.verdict without a gradient descent twin: what the last 5 % of the steps show. */
	function verdict(path) {
		const tail = (values) => values.slice(-Math.max(1, Math.floor(values.length / 20)));
		const [loss, grads, shifted, ratio] = [path.loss, path.gradNorm, path.shiftedGradNorm, path.gradRatio].map(tail);
		const sorted = [...loss].sort((a, b) => a - b), n = sorted.length;
		const median = (sorted[(n - 1) >> 1] + sorted[n >> 1]) / 2;
		if (![...loss, ...grads, ...shifted].every(Number.isFinite)) return "diverged";
		if (Math.max(...ratio) < 1e-6 && Math.min(...grads) > 1e-3) return "hallucinated";
		if (median > 100 * Math.abs(path.loss[0])) return "diverged";
		return Math.max(...grads, ...shifted) < 1e-6 ? "converged" : "running";
	}

	/** The eigenvalues {re, im} of a matrix (its first entry on the line), and how many have a positive, a zero and a
	 *  negative real part. */
	function spectrum([[a, b], [c, d]], dim) {
		const mean = (a + d) / 2, inner = ((a - d) / 2) ** 2 + b * c, root = Math.sqrt(Math.abs(inner));
		const pair = [1, -1].map((s) => (inner >= 0 ? { re: mean + s * root, im: 0 } : { re: mean, im: s * root }));
		const values = dim === 1 ? [{ re: a, im: 0 }] : pair;
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

	/** Critical points of f in and near the box, by Newton's method. A curve of them is sampled. */
	function criticalPoints(land) {
		const { dim, box } = land, size = Math.hypot(...box.map(([low, high]) => high - low));
		const near = (x) => box.every(([low, high], i) => Math.abs(2 * x[i] - low - high) <= 1.5 * (high - low));
		const apart = (list, x, gap) => !list.some((p) => distance(p, x) < gap);
		let found = [];
		for (let x of grid(box, dim === 1 ? 200 : 29, 0.1)) {
			for (let k = 0, length = 1; k < 60 && length > 1e-15; k++) {
				const g = land.grad(x), h = land.hess(x), det = h[0][0] * h[1][1] - h[0][1] * h[1][0];
				const step = [(h[1][1] * g[0] - h[0][1] * g[1]) / det, (h[0][0] * g[1] - h[1][0] * g[0]) / det];
				if (!Number.isFinite(norm(step))) break;
				length = norm(step) / size;
				x = [x[0] - step[0], x[1] - step[1]];
			}
			const h = land.hess(x), scale = 1 + Math.abs(h[0][0]) + Math.abs(h[1][1]);
			if (near(x) && norm(land.grad(x)) < 1e-9 * scale && apart(found, x, 1e-5 * size)) found.push(x);
		}
		if (found.length > MANY) found = found.reduce((kept, x) => (apart(kept, x, size / 28) ? [...kept, x] : kept), []);
		return found.map((x) => ({ x, kind: kindOf(land, x), curve: spectrum(land.hess(x), dim).zeros > 0 }));
	}
	function kindOf(land, x) {
		const { plus, minus } = spectrum(land.hess(x), land.dim);
		return !minus.length ? "minimizer" : plus.length ? "saddle" : "maximizer";
	}

	/** What a hallucinated point is, from the eigenvalues of A = H_*M with M = I + (ρ/‖g‖) P H_h. */
	function classify(land, x, image, rho) {
		const g = land.grad(x), n = norm(g), u = [g[0] / n, g[1] / n];
		const P = [[1 - u[0] * u[0], -u[0] * u[1]], [-u[0] * u[1], 1 - u[1] * u[1]]];
		const M = times(P, land.hess(x)).map((row, i) => row.map((v, j) => (i === j ? 1 : 0) + (rho / n) * v));
		const { plus, zeros, minus } = spectrum(times(land.hess(image.x), M), land.dim);
		const kind = minus.length ? (plus.length ? "saddle" : "repelling") : zeros ? "neutral" : "attracting";
		const most = Math.min(...plus.map((v) => (2 * v.re) / (v.re ** 2 + v.im ** 2)));
		return { x, image, gradNorm: n, kind, etaMax: minus.length ? null : most };
	}

	/** Hallucinated points: critical points of f on the sphere S_ρ(x_*) at which ∇f points inward. In the plane the
	 *  tangential slope changes sign there. */
	function hallucinated(land, critical, rho) {
		const points = [], n = 720;
		for (const image of rho > 0 ? critical : []) {
			const at = (angle) => [image.x[0] + rho * Math.cos(angle), image.x[1] + rho * Math.sin(angle)];
			const slope = (angle) => {
				const g = land.grad(at(angle));
				return g[1] * Math.cos(angle) - g[0] * Math.sin(angle);
			};
			const consider = (angle) => {
				const x = at(angle), g = land.grad(x), outward = g[0] * Math.cos(angle) + g[1] * Math.sin(angle);
				if (outward < 0 && norm(g) > 1e-6) points.push(classify(land, x, image, rho));
			};
			const angles = Array.from({ length: n + 1 }, (_, i) => ((i + 0.377) * 2 * Math.PI) / n);
			if (land.dim === 1) [0, Math.PI].forEach(consider);
			else if (angles.every((a) => Math.abs(slope(a)) < 1e-9 * norm(land.grad(at(a))))) {
				angles.filter((_, i) => i % 30 === 0).forEach(consider); // the whole circle is critical
			} else {
				for (let i = 0; i < n; i++) {
					let low = angles[i], high = angles[i + 1];
					const sign = slope(low);
					if (!(sign * slope(high) < 0)) continue;
					for (let k = 0; k < 50; k++) {
						const middle = (low + high) / 2;
						if (slope(middle) * sign > 0) low = middle;
						else high = middle;
					}
					consider((low + high) / 2);
				}
			}
		}
		return points;
	}

	/** What iterates can end at: critical and hallucinated points and, met by probes, other zeros of the exact gradient. Each
	 *  is {x, kind, curve}: is it a sample of a curve of them? */
	function limits(land, critical, rho, eta, rule) {
		const found = rule === "gd" ? [] : hallucinated(land, critical, rho);
		const known = [...critical, ...found.map(({ x, kind }) => ({ x, kind: "hallucinated", curve: kind === "neutral" }))];
		const probed = [], T = stepper(land, rho, eta, rule);
		if (rule !== "exact" || !(eta > 0)) return known;
		for (let x of grid(land.box, 12, 0)) {
			for (let k = 0; k < 600; k++) x = T(x);
			const d = land.rules[rule](x, rho);
			if (!(Math.hypot(d[0], d[1]) < 1e-9) || [...known, ...probed].some((p) => distance(p.x, x) < 1e-4)) continue;
			probed.push({ x, kind: norm(land.grad([d[2], d[3]])) < 1e-6 ? "hallucinated" : "surrogate" });
		}
		return [...known, ...probed.map((p) => ({ ...p, curve: probed.length > 12 }))];
	}

	/** Around each limit the largest ellipse, on a ladder of sizes, that a step maps into itself (tried on samples of it):
	 *  iterates that enter never leave. The samples of a curve share a label. Returns the kinds by label − 1, the label of
	 *  each limit, and the regions (z − x)ᵀP(z − x) ≤ r² as x, y, P₁₁, P₁₂, P₂₂, r², label. */
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
			const P = group.curve ? [1, 0, 1] : metric(T, group.members[0]);
			const gap = Math.min(1e3, ...group.members.flatMap((x) => others.map((o) => distance(o, x))));
			for (let r = 0.49 * gap, rung = 0; rung < 24; rung++, r *= 0.75) {
				const area = group.members.flatMap((x) => [...x, ...P, r * r, index + 1]);
				const inner = area.map((v, i) => (i % 7 === 5 ? v * 0.98 : v));
				const stays = (x) => samples(x, P, r, land.dim).every((y) => land.caught(...T(y), inner));
				if (!group.members.every(stays)) continue;
				areas.push(...area);
				break;
			}
		});
		return { kinds: groups.map((g) => g.kind), labels, areas: Float64Array.from(areas) };
	}

	/** P = Σ (DTᵏ)ᵀDTᵏ, the norm in which T contracts near a stable fixed point, scaled to have the least eigenvalue 1.
	 *  The identity where DT does not exist or does not contract. */
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
		return Math.max(...power.flat().map(Math.abs)) < 1e-3 && least > 0 ? p.map((v) => v / least) : [1, 0, 1];
	}

	/** Points of the ellipse of size r around x and of its rim. */
	function samples(x, [p, q, s], r, dim) {
		return Array.from({ length: dim === 1 ? 2 : 32 }, (_, i) => {
			const angle = dim === 1 ? i * Math.PI : ((i + 0.21) * Math.PI) / 16, c = Math.cos(angle), d = Math.sin(angle);
			const reach = r / Math.sqrt(p * c * c + 2 * q * c * d + s * d * d);
			return [0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1].map((t) => [x[0] + t * reach * c, x[1] + t * reach * d]);
		}).flat();
	}

	/** The limit around which x goes to and fro, or −1: a critical point, where u turns over, or a hallucinated one. */
	function straddled(T, x, points) {
		const y = T(x), middle = [(x[0] + y[0]) / 2, (x[1] + y[1]) / 2], away = points.map((p) => distance(p.x, middle));
		const nearest = away.indexOf(Math.min(...away));
		return distance(T(y), x) <= 1e-3 * distance(x, y) && away[nearest] <= distance(x, y) / 4 ? nearest : -1;
	}

	/** Labels of the starts in a window, row by row from the top, of every stride-th row: 0 is undecided, GONE left for
	 *  infinity, k + 1 ended in a region of kinds[k]. */
	function basins(land, { window: [x0, x1, y0, y1], width, height, rho, eta, rule, steps, first = 0, stride = 1, early = true }) {
		const points = limits(land, criticalPoints(land), rho, eta, rule), rows = [];
		const { kinds, areas, labels } = regions(land, points, rho, eta, rule), T = stepper(land, rho, eta, rule);
		for (let j = first; j < height; j += stride) {
			const y = land.dim === 1 ? 0 : y1 - ((y1 - y0) * (j + 0.5)) / height, row = new Uint8Array(width);
			for (let i = 0; i < width; i++) {
				const x = x0 + ((x1 - x0) * (i + 0.5)) / width;
				row[i] = land.follow(land.rules[rule], x, y, rho, eta, steps, areas, early) || (labels[straddled(T, land.end, points)] ?? 0);
			}
			rows.push(row);
		}
		return { kinds, rows };
	}

	return {
		FAR, GONE, norm, distance, compile, stepper, trajectory, verdict, criticalPoints, kindOf, hallucinated, basins,
	};
}

const math = mathematics();
const { distance, norm } = math;

// ==== 2. State ====
// The traits that a link holds, beside `at`, the step at which playback stands (null: the last one).

const KEYS = ["landscape", "rho", "eta", "start", "rule", "steps", "show"];
const RULES = { sam: "SAM", exact: "exact gradient of f^SAM", gd: "gradient descent" };
const LAYERS = { gd: "gradient descent", basins: "basins", fsam: "contours of f^SAM" };
const MAX_STEPS = 5000;
const MAX_NUMBER = 1e6;

/** Read a hash such as #lab-1:landscape=ring&rho=1.2. Null if it is for somebody else; else the state it asks for (what
 *  it leaves out comes from `now`) and a list of what is wrong with it. */
function readLink(hash, id, sources, now) {
	if (!id || !hash.startsWith(`#${id}:`)) return null;
	try {
		hash = decodeURIComponent(hash);
	} catch {} // a stray % is one more thing that is wrong
	const number = (low, high) => (text) => {
		const value = /^[-+]?[\d.]+(e[-+]?\d+)?$/i.test(text) ? Number(text) : NaN;
		return value >= low && value <= high ? value : undefined;
	};
	const whole = (low) => (text) => (/^\d+$/.test(text) ? number(low, MAX_STEPS)(text) : undefined);
	const word = (known) => (text) => (Object.hasOwn(known, text) ? text : undefined);
	const list = (read) => (text) => {
		const values = text.split(",").filter(Boolean).map(read);
		return values.includes(undefined) ? undefined : values;
	};
	const readers = {
		landscape: word(sources), rho: number(0, MAX_NUMBER), eta: number(0, MAX_NUMBER), start: list(number(-1e300, 1e300)),
		rule: word(RULES), steps: whole(1), show: list(word(LAYERS)), at: whole(0),
	};
	const state = {}, wrong = [];
	for (const part of hash.slice(id.length + 2).split("&")) {
		const [key, text = ""] = part.split("="), value = Object.hasOwn(readers, key) ? readers[key](text) : undefined;
		if (value === undefined) wrong.push(part.slice(0, 30));
		else state[key] = value;
	}
	const other = state.landscape !== undefined && state.landscape !== now.landscape;
	const full = { ...now, ...(other ? sources[state.landscape].preset : {}), at: null, ...state };
	if (!wrong.length && full.start.length !== sources[full.landscape].dim) wrong.push(`start=${full.start}`);
	return { state: full, wrong };
}

/** The hash that restores this state: JavaScript prints numbers so that they read back unchanged. */
function writeLink(id, state) {
	const keys = state.at === null ? KEYS : [...KEYS, "at"];
	return `#${id}:${keys.map((key) => `${key}=${state[key]}`).join("&")}`;
}

// ==== 3. Words ====

const ENDS = {
	hallucinated: "at a hallucinated point",
	minimizer: "at a minimizer",
	saddle: "at a saddle",
	maximizer: "at a maximizer",
	surrogate: "at another zero of ∇f^SAM",
	gone: "gone to infinity",
	undecided: "not settled",
};

/** Four significant digits, with a true minus sign. */
function say(value) {
	const tidy = Math.abs(value) < 1e-12 ? 0 : Number(value.toPrecision(4)), size = Math.abs(tidy);
	const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? tidy.toExponential(1) : String(tidy);
	return text.replace("e+", "e").replaceAll("-", "−");
}
function sayPoint(x, dim = x.length) {
	const [a, b] = x.map((v) => say(Math.abs(v) < 1e-6 ? 0 : v));
	return dim === 1 ? a : `(${a}, ${b})`;
}

/** Where a path ended, to follow the rule's name. `jump` is ηρ: as u turns over at a critical point c, SAM goes to and fro
 *  within some jump · ‖∇²f(c)‖ of it. */
function ending(path, { land, critical }, jump) {
	const x = path.x.at(-1), spot = (p) => sayPoint(p, land.dim), where = spot(x), steps = path.x.length - 1;
	const far = path.x.findIndex((p) => !(norm(p) <= math.FAR)), verdict = math.verdict(path), slope = say(path.gradNorm.at(-1));
	if (far >= 0) return `leaves for infinity: after ${far} steps it is more than a million away`;
	if (verdict === "diverged") return "climbs: the loss is more than a hundred times what it was at the start";
	if (verdict === "converged") return `reaches the ${math.kindOf(land, x)} ${where}`;
	if (verdict === "hallucinated") {
		const plus = path.plus.at(-1);
		return `hallucinates. It stands still at ${where}, where ‖∇f‖ = ${slope}, because the gradient it ` +
			`follows is taken at x⁺ = ${spot(plus)}, a ${math.kindOf(land, plus)} of f, and is zero there`;
	}
	const ratio = path.gradRatio.at(-1), unsettled = `has not settled after ${steps} steps: ‖∇f‖ = ${slope}, GradRatio = ${say(ratio)}`;
	if (ratio < 0.1 && ratio < path.gradRatio[steps >> 1] / 2) return `${unsettled} and falling: it is closing in on a hallucinated point`;
	const last = path.x.slice(-20), [before, old] = [last.at(-2), last.at(-3)], reach = (c) => Math.max(...last.map((p) => distance(p, c.x)));
	const centre = critical.reduce((a, c) => (reach(c) < reach(a) ? c : a), critical[0]);
	if (centre && reach(centre) <= 2 * jump * Math.hypot(...land.hess(centre.x).flat())) return `keeps stepping across the ${centre.kind} ${spot(centre.x)}, within ${say(reach(centre))} of it`;
	if (old && distance(x, old) < 0.01 * distance(x, before)) return `goes to and fro between ${where} and ${spot(before)}`;
	const near = critical.find((c) => distance(c.x, x) < 1e-3);
	return near ? `is closing in on the ${near.kind} ${spot(near.x)}` : unsettled;
}

/** What happened, in one to three sentences. */
function describe(state, scene) {
	const { rho, eta, rule } = state, { land, path, twin, points } = scene, start = sayPoint(path.x[0], land.dim);
	if (path.gradNorm[0] === 0) {
		return `The start ${start} is a critical point of f, a ${math.kindOf(land, path.x[0])}: ∇f = 0, so x⁺ = x and no rule moves.`;
	}
	if (eta === 0) return `η = 0: every step has length zero, so nothing leaves ${start}.`;
	const name = RULES[rule].replace(/^[a-z]/, (c) => c.toUpperCase());
	const sentences = [`${name} ${ending(path, scene, rule === "gd" ? 0 : eta * rho)}.`];
	if (rule === "gd") return sentences[0];
	if (rho === 0) return `ρ = 0: x⁺ = x, so every rule is gradient descent. ${sentences[0]}`;
	const here = points.find((p) => distance(p.x, path.x.at(-1)) < 1e-4);
	if (here?.etaMax && rule === "sam") sentences.push(`This point attracts SAM for every η below ${say(here.etaMax)}.`);
	return [...sentences, `Gradient descent from the same start ${ending(twin, scene, 0)}.`].join(" ");
}

// ==== 4. Workers ====

/** Computes basins in two workers, which share the rows; while they are busy only the newest request waits. `done` gets
 *  the request with kinds, labels and milliseconds, `failed` a reason. */
function basinComputer(done, failed) {
	const source = `
		const math = (${mathematics})();
		let land, name = "";
		onmessage = ({ data }) => {
			const key = JSON.stringify([data.source, data.rule]);
			if (key !== name) [land, name] = [math.compile(data.source), key];
			const { kinds, rows } = math.basins(land, data), labels = new Uint8Array(rows.length * data.width);
			rows.forEach((row, i) => labels.set(row, i * data.width));
			postMessage({ kinds, labels }, [labels.buffer]);
		};`;
	let pool = [], running = null, waiting = null, missing = 0;

	function open() {
		const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
		pool = Array.from({ length: Math.min(2, navigator.hardwareConcurrency || 1) }, () => new Worker(url));
		pool.forEach((worker, first) => {
			worker.onerror = (event) => failed(event.message || "the browser allows no worker here");
			worker.onmessage = ({ data }) => receive(data, first);
		});
		URL.revokeObjectURL(url);
	}
	function ask(request) {
		if (running) return void (waiting = request);
		try {
			if (!pool.length) open();
		} catch (error) {
			return failed(error.message);
		}
		running = { ...request, labels: new Uint8Array(request.width * request.height), began: performance.now() };
		missing = pool.length;
		pool.forEach((worker, first) => worker.postMessage({ ...request, first, stride: pool.length }));
	}
	function receive({ kinds, labels }, first) {
		const { width, height, began } = running;
		for (let j = first, i = 0; j < height; j += pool.length, i += width) running.labels.set(labels.subarray(i, i + width), j * width);
		if (--missing) return;
		const finished = { ...running, kinds, milliseconds: performance.now() - began }, next = waiting;
		running = waiting = null;
		if (next) ask(next);
		done(finished);
	}
	return { ask, close: () => pool.forEach((worker) => worker.terminate()) };
}

/** The share of starts that end at each kind, largest first: [[kind, share], …]. */
function basinShares({ labels, kinds }) {
	const count = {};
	for (const label of labels) {
		const kind = label === math.GONE ? "gone" : label ? kinds[label - 1] : "undecided";
		count[kind] = (count[kind] ?? 0) + 1 / labels.length;
	}
	return Object.entries(count).sort((a, b) => b[1] - a[1]);
}

// ==== 5. Drawing ====

/** The colours, from samlab.css, so that they follow the theme. */
function readColours(element) {
	const style = getComputedStyle(element);
	const ends = ["hallucinated", "minimizer", "saddle", "maximizer", "surrogate", "gone"].map((kind) => `basin-${kind}`);
	const names = [..."paper ink muted low high contour sam gd plus attracting saddle repelling".split(" "), ...ends];
	return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--samlab-${name}`).trim()]));
}
const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const clamp = (v, low, high) => Math.max(low, Math.min(high, v));
const mix = (a, b, t) => a.map((v, i) => v + (b[i] - v) * t);

function toCanvas(image) {
	const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
	canvas.getContext("2d").putImageData(image, 0, 0);
	return canvas;
}

/** Pictures of the shaded bands and of the lines between them, for a field on nx × ny pixels. The levels are even on a
 *  logarithmic scale above the lowest value, so that valleys show. */
function contours(field, nx, ny, colours) {
	const levels = 15, sample = field.filter((v, i) => i % 53 === 0 && Number.isFinite(v)).sort();
	const [least, quarter, most, high] = [0, 0.25, 0.75, 0.97].map((q) => sample[Math.floor(q * sample.length)]);
	const low = Math.max(least, 4 * quarter - 3 * most), unit = (quarter - low) / 4 || 1; // f may fall without bound
	const factor = levels / Math.log1p((high - low) / unit || 1);
	const t = Float32Array.from(field, (v) => factor * Math.log1p(Math.max(0, v - low) / unit));
	const bands = new ImageData(nx, ny), lines = new ImageData(nx, ny), ink = rgb(colours.contour);
	const shades = Array.from({ length: levels + 1 }, (_, i) => mix(rgb(colours.low), rgb(colours.high), i / levels));
	for (let j = 0, i = 0; j < ny; j++) {
		for (let k = 0; k < nx; k++, i++) {
			const v = t[i], right = t[k + 1 < nx ? i + 1 : i - 1], below = t[j + 1 < ny ? i + nx : i - nx];
			if (!(v >= 0)) continue; // not a number
			bands.data.set(shades[Math.min(levels, v) | 0], 4 * i);
			bands.data[4 * i + 3] = 255;
			// the distance to the nearest level in pixels, from the slope of t, smooths the line's edges
			const slope = Math.hypot(right - v, below - v) + 1e-6, away = Math.abs(v - Math.round(v)) / slope;
			if (away < 1 && v >= 0.5 && slope < 0.7) {
				lines.data.set(ink, 4 * i);
				lines.data[4 * i + 3] = 200 * (1 - away);
			}
		}
	}
	return [bands, lines].map(toCanvas);
}

/** A picture of basin labels: a hue for each kind, a shade for each limit of that kind. */
function basinPicture({ labels, kinds, width, height }, colours) {
	const image = new ImageData(width, height), seen = {}, palette = [rgb(colours.low)];
	palette[math.GONE] = rgb(colours["basin-gone"]);
	const shade = (label) => {
		const kind = kinds[label - 1], index = (seen[kind] = (seen[kind] ?? -1) + 1) % 5;
		return mix(rgb(colours[`basin-${kind}`]), [[0, 0, 0], [255, 255, 255]][index % 2], [0, 0.3, 0.16, 0.15, 0.32][index]);
	};
	labels.forEach((label, i) => {
		image.data.set((palette[label] ??= shade(label)), 4 * i);
		image.data[4 * i + 3] = 255;
	});
	return toCanvas(image);
}

/** A rectangle of the canvas with a window of the plane. */
class Panel {
	constructor(left, top, width, height, [x0, x1, y0, y1]) {
		Object.assign(this, { left, top, width, height, x0, x1, y0, y1 });
	}
	/** The pixels of a point, held within a finite distance. */
	at(x, y) {
		return [
			clamp(this.left + ((x - this.x0) / (this.x1 - this.x0)) * this.width, -1e5, 1e5),
			clamp(this.top + ((this.y1 - y) / (this.y1 - this.y0)) * this.height, -1e5, 1e5),
		];
	}
	/** The point at given pixels. */
	from(px, py) {
		return [
			this.x0 + ((px - this.left) / this.width) * (this.x1 - this.x0),
			this.y1 - ((py - this.top) / this.height) * (this.y1 - this.y0),
		];
	}
}

/** Where everything goes on a canvas of this width, and the height it needs. */
function layOut(width, { dim, box }) {
	const left = 36, inner = width - left - 10, narrow = width < 520, [x0, x1] = box[0], panels = {};
	let height;
	if (dim === 1) {
		const f = narrow ? 170 : 200, map = narrow ? 230 : 270;
		panels.plane = new Panel(left, 8, inner, f, [x0, x1, 0, 1]); // drawLine sets its heights
		panels.map = new Panel(left, f + 36, inner, map, [x0, x1, x0, x1]);
		height = f + map + 62;
	} else {
		const tall = Math.round(narrow ? inner * 0.92 : Math.min(inner * 0.66, 460)), [y0, y1] = box[1];
		const scale = Math.max((x1 - x0) / inner, (y1 - y0) / tall) / 2; // equal on both axes: spheres are round
		const [cx, cy, a, b] = [(x0 + x1) / 2, (y0 + y1) / 2, scale * inner, scale * tall];
		panels.plane = new Panel(left, 8, inner, tall, [cx - a, cx + a, cy - b, cy + b]);
		height = tall + 34;
	}
	const gap = 48, half = (inner - gap) / 2, strip = 84, top = height + 18;
	panels.ratio = new Panel(left, top, half, strip, [0, 1, -8.5, 2]);
	panels.loss = new Panel(left + half + gap, top, half, strip, [0, 1, 0, 1]);
	return { width, height: top + strip + 34, panels };
}

/** Round numbers between low and high, about `count` of them. */
function ticks(low, high, count) {
	const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw)), list = [];
	const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
	for (let v = Math.ceil(low / step); v * step <= high + 1e-9 * step; v++) list.push(Number((v * step).toPrecision(6)));
	return list;
}

/** Draws on a 2-D context with the colours of the theme. */
class Pen {
	constructor(context, colours) {
		Object.assign(this, { c: context, colours });
		Object.assign(context, { font: "12px system-ui, sans-serif", lineJoin: "round" });
	}
	stroke(points, colour, width = 1.5, dash = []) {
		const { c } = this;
		c.beginPath();
		for (const p of points) c.lineTo(...p);
		Object.assign(c, { strokeStyle: colour, fillStyle: colour, lineWidth: width });
		c.setLineDash(dash);
		c.stroke();
		c.setLineDash([]);
	}
	fill(points, colour) {
		this.stroke(points, colour, 0.1);
		this.c.fill();
	}
	/** A disc, with a rim if a colour is given for it. */
	disc([x, y], radius, colour, rim) {
		const { c } = this;
		c.beginPath();
		c.arc(x, y, radius, 0, 2 * Math.PI);
		Object.assign(c, { fillStyle: colour, strokeStyle: rim ?? "transparent", lineWidth: 2 });
		c.stroke();
		c.fill();
	}
	/** Text; on a halo of paper, so that it can be read over a picture, if `halo`. */
	text(string, x, y, colour, align = "left", halo = false) {
		const { c } = this;
		Object.assign(c, { textAlign: align, textBaseline: "middle", fillStyle: colour, lineWidth: 3, strokeStyle: this.colours.paper });
		if (halo) c.strokeText(string, x, y);
		c.fillText(string, x, y);
	}
	arrow(from, to, colour, width, dash) {
		const length = Math.hypot(to[0] - from[0], to[1] - from[1]), a = Math.atan2(to[1] - from[1], to[0] - from[0]);
		if (!(length > 0.5)) return;
		const head = Math.min(10, length), wing = (turn) => [Math.cos, Math.sin].map((f, i) => to[i] + head * f(a + turn));
		this.stroke([from, to], this.colours.paper, width + 2.5);
		this.stroke([from, to], colour, width, dash);
		this.fill([to, wing(2.7), wing(-2.7)], colour);
	}
	/** Shapes tell as much as colours: discs and diamonds are hallucinated, triangles critical. */
	mark(kind, [x, y], size = 5.5) {
		const { colours } = this, shapes = {
			minimizer: [[-1, -0.8], [1, -0.8], [0, 1]],
			maximizer: [[-1, 0.8], [1, 0.8], [0, -1]],
			pass: [[-1, -1], [1, -1], [-1, 1], [1, 1]], // a saddle of f
			saddle: [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]],
		};
		const colour = colours[kind === "neutral" ? "attracting" : kind] ?? colours.ink;
		const rim = colour === colours.ink ? colours.paper : colours.ink;
		if (!shapes[kind]) return this.disc([x, y], size, colour, rim);
		const corners = shapes[kind].map(([u, v]) => [x + u * size, y + v * size]);
		this.stroke([...corners, corners[0]], rim, 2.5);
		this.fill(corners, colour);
	}
	frame(panel, xs, ys, format = say) {
		const { c, colours } = this, bottom = panel.top + panel.height, right = panel.left + panel.width;
		Object.assign(c, { strokeStyle: colours.muted, lineWidth: 1 });
		c.strokeRect(panel.left + 0.5, panel.top + 0.5, panel.width - 1, panel.height - 1);
		for (const v of xs) {
			const x = panel.at(v, 0)[0];
			this.text(say(v), Math.min(x, right + 8), bottom + 11, colours.muted, x > right - 12 ? "right" : "center");
		}
		for (const v of ys) this.text(format(v), panel.left - 5, panel.at(0, v)[1], colours.muted, "right");
	}
	axes(panel) {
		this.frame(panel, ticks(panel.x0, panel.x1, panel.width / 70), ticks(panel.y0, panel.y1, panel.height / 55));
	}
	within(panel, draw) {
		this.c.save();
		this.c.beginPath();
		this.c.rect(panel.left, panel.top, panel.width, panel.height);
		this.c.clip();
		draw();
		this.c.restore();
	}
	/** A picture of few pixels, shown as pixels. */
	blocks(...args) {
		this.c.imageSmoothingEnabled = false;
		this.c.drawImage(...args);
		this.c.imageSmoothingEnabled = true;
	}
}

const showsTwin = (state) => state.show.includes("gd") && state.rule !== "gd";
const critically = (kind) => (kind === "saddle" ? "pass" : kind);

/** x, x⁺ and the step from x; one too short to see is drawn 12 pixels long. */
function drawStep(pen, x, plus, next) {
	const { colours } = pen, length = Math.hypot(next[0] - x[0], next[1] - x[1]);
	pen.arrow(x, plus, colours.plus, 2, [5, 3]);
	const stretch = length > 0.01 ? Math.max(1, 12 / length) : 0;
	pen.arrow(x, [0, 1].map((i) => x[i] + (next[i] - x[i]) * stretch), colours.sam, 3.5);
	pen.disc(plus, 5, colours.plus, colours.paper);
	pen.disc(x, 5, colours.sam, colours.paper);
	if (Math.hypot(plus[0] - x[0], plus[1] - x[1]) > 24) pen.text("x⁺", plus[0] + 8, plus[1] - 12, colours.plus, "left", true);
}

/** The plane: contours or basins, points, the sphere, the paths, x⁺ and the step. */
function drawPlane(pen, { plane }, state, scene, at, [bands, lines], basins) {
	const { colours, c } = pen, { critical, points, path, twin } = scene, pixels = (x) => plane.at(x[0], x[1]);
	const trail = (line, colour, dash) => {
		const shown = line.x.slice(0, at + 1).map(pixels);
		pen.stroke(shown, colours.paper, 4.5);
		pen.stroke(shown, colour, 2.5, dash);
		let last = [Infinity, 0];
		for (const p of dash ? [] : shown) {
			if (Math.hypot(p[0] - last[0], p[1] - last[1]) > 5) pen.disc((last = p), 2.8, colour);
		}
	};
	pen.within(plane, () => {
		const place = [plane.left, plane.top, plane.width, plane.height];
		if (basins) pen.blocks(basins, ...place);
		else c.drawImage(bands, ...place);
		c.drawImage(lines, ...place);
		const x = path.x[at], plus = path.plus[at], away = critical.map((p) => distance(p.x, plus));
		const image = critical[away.indexOf(Math.min(...away))]; // the sphere worth drawing is the one around this
		if (image && state.rule !== "gd") {
			c.setLineDash([2, 4]);
			pen.disc(pixels(image.x), (state.rho / (plane.x1 - plane.x0)) * plane.width, "transparent", colours.plus);
			c.setLineDash([]);
		}
		for (const p of critical) pen.mark(critically(p.kind), pixels(p.x), p.curve ? 3 : 5.5);
		for (const p of points) pen.mark(p.kind, pixels(p.x), p.kind === "neutral" ? 3.5 : 5.5);
		if (showsTwin(state)) trail(twin, colours.gd, [7, 4]);
		trail(path, colours.sam);
		drawStep(pen, pixels(x), pixels(plus), pixels(path.x[at + 1] ?? path.next));
	});
	pen.axes(plane);
}

/** The line: f and f^SAM above a strip of basins; the map T with its cobweb below. */
function drawLine(pen, { plane, map }, state, scene, at, basins) {
	const { colours } = pen, { land, critical, points, path, twin } = scene, f = (x) => land.f([x, 0]);
	const n = Math.round(plane.width), xs = Array.from({ length: n + 1 }, (_, i) => plane.x0 + ((plane.x1 - plane.x0) * i) / n);
	const ends = critical.length ? critical.map((p) => p.x[0]) : [plane.x0, plane.x1], a = Math.min(...ends), b = Math.max(...ends);
	const shown = xs.filter((x) => x > a - 0.4 * (b - a) && x < b + 0.4 * (b - a)).map(f);
	const low = Math.min(...shown), high = Math.max(...shown), T = math.stepper(land, state.rho, state.eta, state.rule);
	Object.assign(plane, { y0: low - 0.22 * (high - low), y1: high });
	const onCurve = (x) => plane.at(x[0], f(x[0]));
	const slopes = xs.map((x) => land.grad([x, 0])[0]);
	/** A graph, broken where u changes sign: T and f^SAM jump there. */
	const graph = (panel, height, colour, dash) => {
		let piece = [];
		xs.forEach((x, i) => {
			if (i && slopes[i] * slopes[i - 1] <= 0) {
				pen.stroke(piece, colour, 2, dash);
				piece = [];
			}
			piece.push(panel.at(x, height(x)));
		});
		pen.stroke(piece, colour, 2, dash);
	};
	pen.within(plane, () => {
		if (basins) pen.blocks(basins, plane.left, plane.top + plane.height - 14, plane.width, 14);
		if (state.show.includes("fsam")) graph(plane, (x) => f(land.rules.sam([x, 0], state.rho)[2]), colours.plus, [4, 3]);
		pen.stroke(xs.map((x) => plane.at(x, f(x))), colours.ink, 2);
		const dots = (line, colour) => line.x.slice(0, at + 1).forEach((x) => pen.disc(onCurve(x), 3, colour));
		if (showsTwin(state)) dots(twin, colours.gd);
		dots(path, colours.sam);
		for (const p of critical) pen.mark(critically(p.kind), onCurve(p.x));
		for (const p of points) pen.mark(p.kind, onCurve(p.x));
		drawStep(pen, onCurve(path.x[at]), onCurve(path.plus[at]), onCurve(path.x[at + 1] ?? path.next));
	});
	pen.axes(plane);
	pen.text("f; dashed: f^SAM", plane.left + 8, plane.top + 12, colours.ink, "left", true);
	pen.within(map, () => {
		const web = (line) => line.x.slice(0, at).flatMap(([x], k) => {
			const y = (line.x[k + 1] ?? line.next)[0];
			return [map.at(x, k ? x : map.y0), map.at(x, y), map.at(y, y)];
		});
		pen.stroke([map.at(map.x0, map.x0), map.at(map.x1, map.x1)], colours.muted, 1, [3, 3]);
		graph(map, (x) => T([x, 0])[0], colours.ink);
		if (showsTwin(state)) pen.stroke(web(twin), colours.gd, 2, [6, 3]);
		pen.stroke(web(path), colours.sam, 2);
		for (const p of points) pen.mark(p.kind, map.at(p.x[0], p.x[0]));
	});
	pen.axes(map);
	pen.text("T(x) and its cobweb; T(x) = x dashed", map.left + 8, map.top + 12, colours.ink, "left", true);
}

function drawTraces(pen, { ratio, loss }, state, { path, twin }, at) {
	const { colours } = pen, { steps } = state;
	const curve = (panel, values, colour, dash, width = 2) => {
		const points = values.map((v, k) => [k, v]).filter(([, v]) => Number.isFinite(v)).map(([k, v]) => panel.at(k, v));
		pen.stroke(points, colour, width, dash);
	};
	const tame = (values) => values.filter((v) => Math.abs(v) < 1e9), own = tame(path.loss), [first] = path.loss;
	const all = showsTwin(state) ? [...own, ...tame(twin.loss)] : own;
	const span = 3 * (Math.max(...own) - Math.min(...own) + Math.abs(first)); // a runaway must not flatten the rest
	const low = Math.max(Math.min(...all), first - span), high = Math.min(Math.max(...all), first + span), pad = 0.08 * (high - low || 1);
	Object.assign(loss, { y0: low - pad, y1: high + pad });
	ratio.x1 = loss.x1 = steps;
	pen.within(ratio, () => {
		pen.stroke([ratio.at(0, 0), ratio.at(steps, 0)], colours.muted, 1, [2, 3]);
		curve(ratio, path.gradRatio.map((v) => Math.log10(Math.max(v, 10 ** -8.4))), colours.sam);
	});
	pen.within(loss, () => {
		curve(loss, path.shiftedLoss, colours.plus, [1, 3]);
		if (showsTwin(state)) curve(loss, twin.loss, colours.gd, [6, 4]);
		curve(loss, path.loss, colours.sam);
	});
	pen.text("GradRatio ‖∇f(x⁺)‖/‖∇f(x)‖", ratio.left, ratio.top - 10, colours.ink);
	pen.text(loss.width < 200 ? "f(x), f(x⁺) dotted" : "loss f(x); dotted: f(x⁺)", loss.left, loss.top - 10, colours.ink);
	const xs = ticks(0, steps, ratio.width < 200 ? 2 : 4).filter(Number.isInteger);
	pen.frame(ratio, xs, [-8, -4, 0], (v) => (v ? `1e−${-v}` : "1"));
	pen.frame(loss, xs, ticks(loss.y0, loss.y1, 3));
	for (const panel of [ratio, loss]) {
		const [x] = panel.at(at, 0), bottom = panel.top + panel.height;
		pen.stroke([[x, panel.top], [x, bottom]], colours.ink, 1, [3, 3]);
		pen.text("step", panel.left + panel.width, bottom + 26, colours.muted, "right");
	}
}

// ==== 6. The widget ====

const slider = (name, label) =>
	`<label><span>${label[0]}</span> <input type="range" name="${name}" aria-label="${label}" min="0" max="400">
	<input type="number" name="${name}" aria-label="${label}, exact" min="0" step="any"></label>`;
const TEMPLATE = `
<div class="samlab-row">
	<label>Landscape <select name="landscape"></select></label>
	<label>Rule <select name="rule"></select></label>
</div>
<div class="samlab-stage"><canvas role="img" aria-label="Landscape"></canvas><button type="button" class="samlab-handle"></button></div>
<div class="samlab-row">
	<span>${["Play", "Step", "Reset", "Copy link"].map((text) => `<button type="button" name="${text}">${text}</button>`).join(" ")}</span>
	<label class="samlab-grow"><span>step <output></output> of</span>
		<input type="number" name="steps" aria-label="number of steps" min="1" max="${MAX_STEPS}">
		<input type="range" name="at" aria-label="step shown" min="0"></label>
</div>
<p class="samlab-says" aria-hidden="true"></p>
<p class="samlab-heard" role="status"></p>
<div class="samlab-sliders">${slider("rho", "ρ, the radius")}${slider("eta", "η, the step size, logarithmic")}</div>
<fieldset class="samlab-row"><legend class="samlab-heard">Show</legend></fieldset>
<ul class="samlab-legend" aria-label="Legend"></ul>`;

/** Slider positions 0 to 400 as values of three digits, and back; η is logarithmic above 1e-4. */
const SLIDERS = {
	rho: {
		value: (position, most) => Number(((position / 400) * most).toPrecision(3)),
		position: (value, most) => Math.round((value / most) * 400),
	},
	eta: {
		value: (position) => (position ? Number((10 ** (position / 100 - 4)).toPrecision(3)) : 0),
		position: (value) => (value ? Math.max(1, Math.round(100 * Math.log10(value) + 400)) : 0),
	},
};

/** A lab in the element `el` that shows and changes `model`. Returns what takes it down. */
function render({ model, el }) {
	const root = document.createElement("div");
	root.className = "samlab-live";
	root.setAttribute("role", "group");
	root.setAttribute("aria-label", "Lab: SAM on a landscape");
	root.innerHTML = TEMPLATE;
	el.append(root);
	const $ = (selector) => root.querySelector(selector), range = (name) => $(`[type=range][name=${name}]`), number = (name) => $(`[type=number][name=${name}]`);
	const canvas = $("canvas"), handle = $(".samlab-handle"), says = $(".samlab-says");
	const id = el.closest(".samlab")?.id ?? "", sources = model.get("sources");
	const stop = new AbortController();
	const listen = (target, type, action) => target.addEventListener(type, action, { signal: stop.signal });

	const state = { at: null }; // a copy of the traits, and the step shown
	let scene = {}; // what follows from the state
	let layout, colours, background = [], basins = null, picture = null; // what is drawn
	let notice = "", playing = 0, frame = 0;
	const timers = {};

	// ---- changes ----

	/** Every change passes through the model; Python hears of it at most ten times a second. */
	function change({ at = state.at, ...traits }) {
		state.at = at;
		notice = "";
		model.set(traits);
		timers.save ??= setTimeout(() => {
			timers.save = undefined;
			model.save_changes();
		}, 100);
		refresh();
	}
	function refresh() {
		frame ||= requestAnimationFrame(() => {
			const began = performance.now();
			frame = 0;
			for (const key of KEYS) state[key] = model.get(key);
			const source = sources[state.landscape];
			if (state.start.length !== source?.dim) return; // Python is between two changes
			restyle();
			size(source);
			compute(source);
			draw();
			syncControls();
			syncLegend();
			speak();
			canvas.dataset.redrawMs = (performance.now() - began).toFixed(2);
		});
	}
	function note(text) {
		notice = text;
		refresh();
	}

	/** Everything that follows from the state; each part only when what it depends on has changed. */
	function compute(source) {
		const renew = (name, key, make) => {
			const text = JSON.stringify(key);
			if (scene[name] !== text) Object.assign(scene, make(), { [name]: text });
		};
		const { landscape, rho, eta, start, rule, steps } = state;
		renew("landKey", landscape, () => {
			const land = math.compile(source);
			basins = picture = null;
			return { land, critical: math.criticalPoints(land) };
		});
		renew("pointKey", [landscape, rho, rule], () => ({
			points: rule === "gd" ? [] : math.hallucinated(scene.land, scene.critical, rho),
		}));
		renew("pathKey", [landscape, rho, eta, start, rule, steps], () => {
			const [path, twin] = [rule, "gd"].map((name) => math.trajectory(scene.land, start, rho, eta, steps, name));
			return { path, twin, words: describe(state, { ...scene, path, twin }) };
		});
		if (!state.show.includes("basins")) [basins, picture, scene.basinKey] = [null, null, ""];
		else {
			const { x0, x1, y0, y1 } = layout.panels.plane, flat = source.dim === 1;
			const area = flat ? { window: [x0, x1, 0, 0], width: 1024, height: 1 } : { window: [x0, x1, y0, y1], width: 256, height: 256 };
			const request = { source, rho, eta, rule, steps, ...area };
			renew("basinKey", request, () => computer.ask(request));
		}
	}
	const computer = basinComputer(
		(result) => {
			if (!state.show.includes("basins") || result.source !== layout.source) return;
			[basins, picture] = [result, basinPicture(result, colours)];
			canvas.dataset.basinsMs = result.milliseconds.toFixed(1);
			refresh();
		},
		(reason) => note(`Basins cannot be computed: ${reason}.`),
	);

	/** Say what happened; a screen reader hears it once the reader's hand rests. */
	function speak() {
		const shares = basins ? basinShares(basins).filter(([, share]) => share >= 0.005) : [];
		const tally = shares.map(([kind, share]) => `${Math.round(100 * share)} % ${ENDS[kind]}`).join(", ");
		const text = [notice, scene.words, tally && `The starts shown end: ${tally}.`].filter(Boolean).join(" ");
		if (says.textContent === text) return;
		says.textContent = text;
		clearTimeout(timers.speak);
		timers.speak = setTimeout(() => {
			$("[role=status]").textContent = text;
			canvas.setAttribute("aria-label", `${state.landscape} with the path of ${RULES[state.rule]}. ${scene.words}`);
		}, 600);
	}

	// ---- drawing ----

	/** JupyterLab may load the style sheet late, and any page change its theme. */
	function restyle() {
		const fresh = readColours(root);
		if (JSON.stringify(fresh) === JSON.stringify(colours)) return;
		colours = fresh;
		if (basins) picture = basinPicture(basins, colours);
	}
	function size(source) {
		const width = Math.max(280, Math.floor(canvas.parentNode.clientWidth)), ratio = Math.min(3, window.devicePixelRatio || 1);
		if (layout?.width === width && layout.ratio === ratio && layout.source === source) return;
		layout = { ...layOut(width, source), ratio, source };
		canvas.width = width * ratio;
		canvas.height = layout.height * ratio;
		canvas.style.height = `${layout.height}px`;
	}

	/** The contours, kept until what they show changes; those of f^SAM are coarser, to follow ρ. */
	function prepareBackground() {
		const { plane } = layout.panels, fsam = state.show.includes("fsam"), { land } = scene;
		const scale = Math.min(layout.ratio, Math.sqrt((fsam ? 1.5e5 : 6e5) / (plane.width * plane.height)));
		const key = JSON.stringify([state.landscape, plane, colours.paper, fsam && state.rho, scale]);
		if (scene.backgroundKey === key) return;
		scene.backgroundKey = key;
		const nx = Math.round(plane.width * scale), ny = Math.round(plane.height * scale), field = new Float64Array(nx * ny);
		for (let i = 0; i < field.length; i++) {
			const x = plane.from(plane.left + ((i % nx) + 0.5) / scale, plane.top + (Math.floor(i / nx) + 0.5) / scale);
			field[i] = land.f(fsam ? land.rules.sam(x, state.rho).slice(2) : x);
		}
		background = contours(field, nx, ny, colours);
	}
	function draw() {
		const { panels, ratio, width, height } = layout, context = canvas.getContext("2d"), { start } = state, at = step();
		context.setTransform(ratio, 0, 0, ratio, 0, 0);
		context.fillStyle = colours.paper;
		context.fillRect(0, 0, width, height);
		const pen = new Pen(context, colours), flat = scene.land.dim === 1;
		if (!flat) prepareBackground();
		if (flat) drawLine(pen, panels, state, scene, at, picture);
		else drawPlane(pen, panels, state, scene, at, background, picture);
		drawTraces(pen, panels, state, scene, at);
		const { plane } = panels, [x, y] = plane.at(start[0], flat ? scene.land.f(start) : start[1]);
		handle.style.left = `${clamp(x, plane.left, plane.left + plane.width)}px`;
		handle.style.top = `${clamp(y, plane.top, plane.top + plane.height)}px`;
	}
	const step = () => Math.min(state.at ?? state.steps, state.steps);

	// ---- controls ----

	const mostRho = () => Math.max(state.rho, ...sources[state.landscape].box.map(([low, high]) => (high - low) / 2));

	function syncControls() {
		const put = (control, value) => control !== document.activeElement && (control.value = value);
		for (const name of ["landscape", "rule"]) $(`select[name=${name}]`).value = state[name];
		for (const name of ["rho", "eta"]) {
			put(number(name), state[name]);
			if (SLIDERS[name].value(Number(range(name).value), mostRho()) !== state[name]) {
				range(name).value = SLIDERS[name].position(state[name], mostRho());
			}
			range(name).setAttribute("aria-valuetext", say(state[name]));
		}
		put(number("steps"), state.steps);
		range("at").max = state.steps;
		range("at").value = step();
		$("output").textContent = step();
		for (const box of root.querySelectorAll("[type=checkbox]")) box.checked = state.show.includes(box.name);
		$("[name=Play]").textContent = playing ? "Pause" : "Play";
		handle.title = `Start ${sayPoint(state.start)}: drag it, or move it with the arrow keys (with Shift ten times as far)`;
		handle.setAttribute("aria-label", handle.title);
	}
	function syncLegend() {
		const line = (colour, dash) => `<path d="M1 8h24" stroke="var(--samlab-${colour})" stroke-width="3" stroke-dasharray="${dash}"/>`;
		const mark = (colour, path) => `<path d="${path}" fill="var(--samlab-${colour})" stroke="var(--samlab-ink)" stroke-width="1.5"/>`;
		const disc = "M8 8a5 5 0 1 0 10 0a5 5 0 1 0-10 0";
		const rows = [
			["path of the rule", line("sam", "")],
			["of gradient descent", line("gd", "6 4")],
			["from x to x⁺; sphere of radius ρ", line("plus", "5 3")],
			["hallucinated: attracts", mark("attracting", disc)],
			["in part", mark("saddle", "M13 1l7 7-7 7-7-7z")],
			["repels", mark("repelling", disc)],
			["minimizer", mark("ink", "M8 4h10l-5 8z")],
			["saddle", mark("ink", "M8 3h10L8 13h10z")],
			["maximizer", mark("ink", "M8 12h10l-5-8z")],
		];
		for (const [kind] of basins ? basinShares(basins) : []) {
			rows.push([`ends ${ENDS[kind]}`, `<path d="M5 2h16v12H5z" fill="var(--samlab-${kind === "undecided" ? "low" : `basin-${kind}`})"/>`]);
		}
		const html = rows.map(([text, svg]) => `<li><svg width="26" height="16" aria-hidden="true">${svg}</svg> ${text}</li>`).join("");
		if (scene.legend !== html) $(".samlab-legend").innerHTML = scene.legend = html;
	}
	function buildControls() {
		for (const name of Object.keys(sources)) $("[name=landscape]").add(new Option(name));
		for (const [name, text] of Object.entries(RULES)) $("[name=rule]").add(new Option(text, name));
		for (const [name, text] of Object.entries(LAYERS)) {
			const label = document.createElement("label"), box = Object.assign(document.createElement("input"), { type: "checkbox", name });
			label.append(box, text);
			$("fieldset").append(label);
			listen(box, "change", () =>
				change({ show: Object.keys(LAYERS).filter((layer) => (layer === name ? box.checked : state.show.includes(layer))) }));
		}
		$("[name^=Copy]").hidden = !id; // in JupyterLab Python holds the state
		// JupyterLab would take arrow keys and letters for itself
		for (const control of root.querySelectorAll("button, input, select")) control.dataset.lmSuppressShortcuts = "true";
	}
	function onNumber(name, low, high) {
		listen(number(name), "change", ({ target }) => {
			const value = Number(target.value);
			if (target.value !== "" && value >= low && value <= high) return change({ [name]: name === "steps" ? Math.round(value) : value });
			note(`${name} = ${target.value || "nothing"} cannot be used: it must be a number from ${low} to ${say(high)}.`);
			target.value = state[name];
		});
	}

	// ---- the start ----

	function moveStart({ clientX, clientY }, [dx, dy] = [0, 0]) {
		const bounds = canvas.getBoundingClientRect(), { plane } = layout.panels;
		const [x, y] = plane.from(clientX - bounds.left - dx, clientY - bounds.top - dy);
		const held = [clamp(x, plane.x0, plane.x1), clamp(y, plane.y0, plane.y1)].map((v) => Number(v.toPrecision(6)));
		change({ start: held.slice(0, scene.land.dim) });
	}
	function drag(element, event, offset) {
		const end = new AbortController(), { signal } = end;
		element.setPointerCapture(event.pointerId);
		element.addEventListener("pointermove", (e) => moveStart(e, offset), { signal });
		for (const type of ["pointerup", "pointercancel"]) element.addEventListener(type, () => end.abort(), { signal });
	}
	const inPlane = ({ offsetX: x, offsetY: y }) => {
		const { left, top, width, height } = layout.panels.plane;
		return x >= left && x <= left + width && y >= top && y <= top + height;
	};
	listen(handle, "pointerdown", (event) => {
		const { left, top, width, height } = handle.getBoundingClientRect();
		drag(handle, event, [event.clientX - left - width / 2, event.clientY - top - height / 2]);
	});
	listen(canvas, "pointerdown", (event) => {
		if (event.pointerType !== "mouse" || event.button !== 0 || !inPlane(event)) return; // a finger may want to scroll
		event.preventDefault();
		moveStart(event);
		drag(canvas, event);
		handle.focus({ preventScroll: true });
	});
	listen(canvas, "click", (event) => {
		if (event.pointerType !== "mouse" && inPlane(event)) moveStart(event); // a tap
	});
	listen(handle, "keydown", (event) => {
		const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
		if (!way) return;
		event.preventDefault();
		event.stopPropagation();
		const { x0, x1 } = layout.panels.plane, by = ((x1 - x0) / 100) * (event.shiftKey ? 10 : 1);
		change({ start: state.start.map((v, i) => Number((v + by * way[i]).toPrecision(6))) });
	});

	// ---- playback ----

	function pause() {
		cancelAnimationFrame(playing);
		playing = 0;
	}
	function play() {
		if (playing) {
			pause();
			return refresh();
		}
		if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
			change({ at: null });
			return note("All steps are shown at once, since your system asks for less motion; Step shows them one by one.");
		}
		const from = step() < state.steps ? step() : 0, began = performance.now(), rate = Math.max(12, state.steps / 8) / 1000;
		const tick = () => {
			const at = Math.min(state.steps, Math.floor(from + (performance.now() - began) * rate));
			playing = at < state.steps ? requestAnimationFrame(tick) : 0;
			change({ at });
		};
		tick();
	}

	// ---- links ----

	function followLink(event) {
		const asked = readLink(location.hash, id, sources, state);
		if (!asked) return;
		pause();
		if (asked.wrong.length) note(`The link could not be read (${asked.wrong.join(", ")}); the lab keeps its own state.`);
		else change(asked.state);
		if (event) history.replaceState(null, "", `#${id}`); // the same link must work again
		root.scrollIntoView({ block: "nearest" });
	}
	async function copyLink() {
		history.replaceState(null, "", writeLink(id, state));
		const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
		note(`The link to this state is in the address bar${copied ? " and on the clipboard" : ""}.`);
	}

	// ---- life ----

	for (const key of KEYS) state[key] = model.get(key);
	const initial = { ...state };
	buildControls();
	listen($("[name=landscape]"), "change", ({ target }) => change({ landscape: target.value, ...sources[target.value].preset, at: null }));
	listen($("[name=rule]"), "change", ({ target }) => change({ rule: target.value }));
	for (const name of ["rho", "eta"]) {
		listen(range(name), "input", ({ target }) => change({ [name]: SLIDERS[name].value(Number(target.value), mostRho()) }));
		onNumber(name, 0, MAX_NUMBER);
	}
	onNumber("steps", 1, MAX_STEPS);
	listen(range("at"), "input", ({ target }) => (pause(), change({ at: Number(target.value) })));
	listen($("[name=Play]"), "click", play);
	listen($("[name=Step]"), "click", () => (pause(), change({ at: step() < state.steps ? step() + 1 : 0 })));
	listen($("[name=Reset]"), "click", () => (pause(), change(initial)));
	listen($("[name^=Copy]"), "click", copyLink);
	listen(window, "hashchange", followLink);
	for (const key of KEYS) model.on(`change:${key}`, refresh);
	const resized = new ResizeObserver(refresh), themed = new MutationObserver(refresh);
	resized.observe(canvas.parentNode);
	const attributeFilter = ["data-theme", "data-jp-theme-light"];
	for (const element of [document.documentElement, document.body]) themed.observe(element, { attributeFilter });
	followLink();
	refresh();

	return () => {
		pause();
		cancelAnimationFrame(frame);
		stop.abort();
		computer.close();
		resized.disconnect();
		themed.disconnect();
		for (const key of KEYS) model.off(`change:${key}`, refresh);
		Object.values(timers).forEach(clearTimeout);
		root.remove();
	};
}

export default { render, mathematics, readLink, writeLink };
