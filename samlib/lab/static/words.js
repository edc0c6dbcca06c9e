/* What the lab says: numbers, points, and what became of a path. */

import * as math from "./math.js";
import { RULES } from "./state.js";

/** Four significant digits, with a true minus sign. */
export function say(value) {
	const tidy = Math.abs(value) < 1e-12 ? 0 : Number(value.toPrecision(4));
	const size = Math.abs(tidy);
	const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? tidy.toExponential(1) : String(tidy);
	return text.replace("e+", "e").replaceAll("-", "−");
}

export function sayPoint(x, dim = x.length) {
	const [a, b] = x.map((v) => say(Math.abs(v) < 1e-6 ? 0 : v));
	return dim === 1 ? a : `(${a}, ${b})`;
}

/** Where a path ended, to follow the rule's name. `jump` is ηρ. */
function ending(path, scene, jump) {
	const { land } = scene;
	const x = path.x.at(-1);
	const far = path.x.findIndex((p) => !(math.norm(p) <= math.FAR));
	if (far >= 0) return `leaves for infinity: after ${far} steps it is more than a million away`;
	switch (math.verdict(path)) {
		case "diverged":
			return "climbs: the loss is more than a hundred times what it was at the start";
		case "converged":
			return `reaches the ${math.kindOf(land, x)} ${sayPoint(x, land.dim)}`;
		case "hallucinated":
			return hallucination(path, land);
		default:
			return unsettled(path, scene, jump);
	}
}

function hallucination(path, land) {
	const spot = (p) => sayPoint(p, land.dim);
	const plus = path.plus.at(-1);
	const slope = say(path.gradNorm.at(-1));
	return `hallucinates. It stands still at ${spot(path.x.at(-1))}, where ‖∇f‖ = ${slope}, ` +
		`because the gradient it follows is taken at x⁺ = ${spot(plus)}, ` +
		`a ${math.kindOf(land, plus)} of f, and is zero there`;
}

/** What a path does that has no verdict yet. As u turns over at a critical point c, SAM goes to and
 *  fro within some jump · ‖∇²f(c)‖ of it. */
function unsettled(path, { land, critical }, jump) {
	const spot = (p) => sayPoint(p, land.dim);
	const steps = path.x.length - 1;
	const ratio = path.gradRatio.at(-1);
	const slope = say(path.gradNorm.at(-1));
	const plain = `has not settled after ${steps} steps: ‖∇f‖ = ${slope}, GradRatio = ${say(ratio)}`;
	if (ratio < 0.1 && ratio < path.gradRatio[steps >> 1] / 2) {
		return `${plain} and falling: it is closing in on a hallucinated point`;
	}
	const last = path.x.slice(-20);
	const [old, before, x] = [last.at(-3), last.at(-2), last.at(-1)];
	const reach = (c) => Math.max(...last.map((p) => math.distance(p, c.x)));
	const centre = critical.reduce((a, c) => (reach(c) < reach(a) ? c : a), critical[0]);
	if (centre && reach(centre) <= 2 * jump * Math.hypot(...land.hess(centre.x).flat())) {
		const within = say(reach(centre));
		return `keeps stepping across the ${centre.kind} ${spot(centre.x)}, within ${within} of it`;
	}
	if (old && math.distance(x, old) < 0.01 * math.distance(x, before)) {
		return `goes to and fro between ${spot(x)} and ${spot(before)}`;
	}
	const near = critical.find((c) => math.distance(c.x, x) < 1e-3);
	return near ? `is closing in on the ${near.kind} ${spot(near.x)}` : plain;
}

/** What happened, in one to three sentences. */
export function describe({ rho, eta, rule }, scene) {
	const { land, path, twin, points } = scene;
	const start = sayPoint(path.x[0], land.dim);
	if (path.gradNorm[0] === 0) {
		const kind = math.kindOf(land, path.x[0]);
		const why = "∇f = 0, so x⁺ = x and no rule moves";
		return `The start ${start} is a critical point of f, a ${kind}: ${why}.`;
	}
	if (eta === 0) return `η = 0: every step has length zero, so nothing leaves ${start}.`;
	const name = RULES[rule].replace(/^[a-z]/, (c) => c.toUpperCase());
	const sentences = [`${name} ${ending(path, scene, rule === "gd" ? 0 : eta * rho)}.`];
	if (rule === "gd") return sentences[0];
	if (rho === 0) return `ρ = 0: x⁺ = x, so every rule is gradient descent. ${sentences[0]}`;
	const here = points.find((p) => math.distance(p.x, path.x.at(-1)) < 1e-4);
	if (here?.etaMax && rule === "sam") {
		sentences.push(`This point attracts SAM for every η below ${say(here.etaMax)}.`);
	}
	sentences.push(`Gradient descent from the same start ${ending(twin, scene, 0)}.`);
	return sentences.join(" ");
}
