/* The lab's figure: the plane or the line with the paths, and two traces below. */

import * as math from "./math.js";
import { basinPicture, contours, Panel, Pen, readColours, ticks } from "./pen.js";
import { showsTwin, stepShown } from "./state.js";

/** The figure on a canvas, and the pictures it keeps between two redraws. */
export class Figure {
	basins = null;
	picture = null; // of `basins`

	constructor(canvas) {
		this.canvas = canvas;
	}

	/** Follow the theme and the width: JupyterLab may load the style sheet late, and any page change
	 *  its theme. */
	fit(source) {
		const { canvas } = this;
		const colours = readColours(canvas);
		if (JSON.stringify(colours) !== JSON.stringify(this.colours)) {
			Object.assign(this, { colours, basins: null, picture: null });
		}
		const width = Math.max(280, Math.floor(canvas.parentNode.clientWidth));
		const ratio = Math.min(3, window.devicePixelRatio || 1);
		const key = JSON.stringify([width, ratio, source.dim, source.box]);
		if (this.sizeKey === key) return;
		Object.assign(this, { sizeKey: key, width, ratio }, layOut(width, source));
		canvas.width = width * ratio;
		canvas.height = this.height * ratio;
		canvas.style.height = `${this.height}px`;
	}

	draw(state, scene) {
		const { colours, panels, ratio } = this;
		const context = this.canvas.getContext("2d");
		context.setTransform(ratio, 0, 0, ratio, 0, 0);
		context.fillStyle = colours.paper;
		context.fillRect(0, 0, this.width, this.height);
		if (scene.basins !== this.basins) {
			this.basins = scene.basins;
			this.picture = scene.basins && basinPicture(scene.basins, colours);
		}
		const pen = new Pen(context, colours);
		if (panels.map) {
			drawGraph(pen, panels.plane, state, scene, this.picture);
			drawMap(pen, panels.map, state, scene);
		} else {
			this.prepareBackground(state, scene);
			drawPlane(pen, panels.plane, state, scene, this);
		}
		drawRatio(pen, panels.ratio, state, scene);
		drawLoss(pen, panels.loss, state, scene);
	}

	/** The contours, kept until what they show changes; those of f^SAM are coarser, to follow ρ. */
	prepareBackground({ landscape, rho, show }, { land }) {
		const { plane } = this.panels;
		const fsam = show.includes("fsam");
		const most = fsam ? 1.5e5 : 6e5;
		const scale = Math.min(this.ratio, Math.sqrt(most / (plane.width * plane.height)));
		const key = JSON.stringify([landscape, plane, this.colours.paper, fsam && rho, scale]);
		if (this.backgroundKey === key) return;
		this.backgroundKey = key;
		const nx = Math.round(plane.width * scale);
		const ny = Math.round(plane.height * scale);
		const field = new Float64Array(nx * ny);
		for (let i = 0; i < field.length; i++) {
			const column = ((i % nx) + 0.5) / scale;
			const row = (Math.floor(i / nx) + 0.5) / scale;
			const x = plane.from(plane.left + column, plane.top + row);
			field[i] = land.f(fsam ? land.rules.sam(x, rho).slice(2) : x);
		}
		this.background = contours(field, nx, ny, this.colours);
	}

	/** The pixels of the start. */
	startAt({ start }, { land }) {
		return this.panels.plane.at(start[0], land.dim === 1 ? land.f(start) : start[1]);
	}
}

/** Where everything goes on a canvas of this width, and the height it needs. */
function layOut(width, { dim, box }) {
	const left = 36;
	const inner = width - left - 10;
	const narrow = width < 520;
	const [x0, x1] = box[0];
	const panels = {};
	let height;
	if (dim === 1) {
		const [f, map] = narrow ? [170, 230] : [200, 270];
		panels.plane = new Panel(left, 8, inner, f, [x0, x1, 0, 1]); // drawGraph sets its heights
		panels.map = new Panel(left, f + 36, inner, map, [x0, x1, x0, x1]);
		height = f + map + 62;
	} else {
		const [y0, y1] = box[1];
		const tall = Math.round(narrow ? inner * 0.92 : Math.min(inner * 0.66, 460));
		// equal on both axes: spheres are round
		const scale = Math.max((x1 - x0) / inner, (y1 - y0) / tall) / 2;
		const [cx, cy, a, b] = [(x0 + x1) / 2, (y0 + y1) / 2, scale * inner, scale * tall];
		panels.plane = new Panel(left, 8, inner, tall, [cx - a, cx + a, cy - b, cy + b]);
		height = tall + 34;
	}
	const gap = 48;
	const half = (inner - gap) / 2;
	const strip = 84;
	const top = height + 18;
	panels.ratio = new Panel(left, top, half, strip, [0, 1, -8.5, 2]);
	panels.loss = new Panel(left + half + gap, top, half, strip, [0, 1, 0, 1]);
	return { height: top + strip + 34, panels };
}

// ---- The plane ----

/** Marks of the critical and of the hallucinated points; in the plane samples of a curve are
 *  smaller. */
function drawPoints(pen, { land, critical, points }, place) {
	const plane = land.dim === 2;
	for (const { x, kind, curve } of critical) {
		pen.mark(kind === "saddle" ? "pass" : kind, place(x), plane && curve ? 3 : 5.5);
	}
	for (const { x, kind } of points) {
		pen.mark(kind, place(x), plane && kind === "neutral" ? 3.5 : 5.5);
	}
}

/** x, x⁺ and the step from x; one too short to see is drawn 12 pixels long. */
function drawStep(pen, { path }, at, place) {
	const { colours } = pen;
	const [x, plus, next] = [path.x[at], path.plus[at], path.x[at + 1] ?? path.next].map(place);
	const length = math.distance(next, x);
	const stretch = length > 0.01 ? Math.max(1, 12 / length) : 0;
	pen.arrow(x, plus, colours.plus, 2, [5, 3]);
	pen.arrow(x, [0, 1].map((i) => x[i] + (next[i] - x[i]) * stretch), colours.sam, 3.5);
	pen.disc(plus, 5, colours.plus, colours.paper);
	pen.disc(x, 5, colours.sam, colours.paper);
	if (math.distance(plus, x) > 24) {
		pen.text("x⁺", plus[0] + 8, plus[1] - 12, colours.plus, "left", true);
	}
}

/** A path; its points too, unless it is dashed. */
function drawTrail(pen, points, colour, dash) {
	pen.stroke(points, pen.colours.paper, 4.5);
	pen.stroke(points, colour, 2.5, dash);
	let last = [Infinity, 0];
	for (const p of dash ? [] : points) {
		if (math.distance(p, last) > 5) pen.disc((last = p), 2.8, colour);
	}
}

/** The sphere around the critical point that is nearest to x⁺. */
function drawSphere(pen, plane, rho, { critical, path }, at) {
	const away = critical.map((p) => math.distance(p.x, path.plus[at]));
	const image = critical[away.indexOf(Math.min(...away))];
	if (!image) return;
	const radius = (rho / (plane.x1 - plane.x0)) * plane.width;
	pen.circle(plane.at(...image.x), radius, pen.colours.plus, [2, 4]);
}

/** Contours or basins, the sphere, points, the paths, x⁺ and the step. */
function drawPlane(pen, plane, state, scene, { background: [bands, lines], picture }) {
	const { colours } = pen;
	const at = stepShown(state);
	const place = (x) => plane.at(x[0], x[1]);
	const trail = (path) => path.x.slice(0, at + 1).map(place);
	const all = [plane.left, plane.top, plane.width, plane.height];
	pen.within(plane, () => {
		if (picture) pen.blocks(picture, ...all);
		else pen.c.drawImage(bands, ...all);
		pen.c.drawImage(lines, ...all);
		if (state.rule !== "gd") drawSphere(pen, plane, state.rho, scene, at);
		drawPoints(pen, scene, place);
		if (showsTwin(state)) drawTrail(pen, trail(scene.twin), colours.gd, [7, 4]);
		drawTrail(pen, trail(scene.path), colours.sam);
		drawStep(pen, scene, at, place);
	});
	pen.axes(plane);
}

// ---- The line ----

/** The numbers along a panel, one for each pixel. */
function abscissae({ x0, x1, width }) {
	const n = Math.round(width);
	return Array.from({ length: n + 1 }, (_, i) => x0 + ((x1 - x0) * i) / n);
}

/** A graph, broken where u changes sign: T and f^SAM jump there. */
function drawJumping(pen, panel, land, height, colour, dash) {
	let piece = [];
	let slope = 0;
	abscissae(panel).forEach((x, i) => {
		const before = slope;
		slope = land.grad([x, 0])[0];
		if (i && slope * before <= 0) {
			pen.stroke(piece, colour, 2, dash);
			piece = [];
		}
		piece.push(panel.at(x, height(x)));
	});
	pen.stroke(piece, colour, 2, dash);
}

/** The heights at which the critical points and their surroundings can be seen. */
function fitHeights(plane, { critical }, f) {
	const ends = critical.length ? critical.map((p) => p.x[0]) : [plane.x0, plane.x1];
	const a = Math.min(...ends);
	const b = Math.max(...ends);
	const inside = (x) => x > a - 0.4 * (b - a) && x < b + 0.4 * (b - a);
	const shown = abscissae(plane).filter(inside).map(f);
	const low = Math.min(...shown);
	const high = Math.max(...shown);
	Object.assign(plane, { y0: low - 0.22 * (high - low), y1: high });
}

/** f and f^SAM with the paths, above a strip of basins. */
function drawGraph(pen, plane, state, scene, picture) {
	const { colours } = pen;
	const { land } = scene;
	const at = stepShown(state);
	const f = (x) => land.f([x, 0]);
	const fsam = (x) => f(land.rules.sam([x, 0], state.rho)[2]);
	fitHeights(plane, scene, f);
	const place = ([x]) => plane.at(x, f(x));
	const dots = (path, colour) => {
		for (const x of path.x.slice(0, at + 1)) pen.disc(place(x), 3, colour);
	};
	pen.within(plane, () => {
		if (picture) pen.blocks(picture, plane.left, plane.bottom - 14, plane.width, 14);
		if (state.show.includes("fsam")) drawJumping(pen, plane, land, fsam, colours.plus, [4, 3]);
		pen.stroke(abscissae(plane).map((x) => plane.at(x, f(x))), colours.ink, 2);
		if (showsTwin(state)) dots(scene.twin, colours.gd);
		dots(scene.path, colours.sam);
		drawPoints(pen, scene, place);
		drawStep(pen, scene, at, place);
	});
	pen.axes(plane);
	pen.text("f; dashed: f^SAM", plane.left + 8, plane.top + 12, colours.ink, "left", true);
}

/** The map T with its cobweb. */
function drawMap(pen, map, state, { land, points, path, twin }) {
	const { colours } = pen;
	const at = stepShown(state);
	const T = math.stepper(land, state.rho, state.eta, state.rule);
	const web = (line) => line.x.slice(0, at).flatMap(([x], k) => {
		const [y] = line.x[k + 1] ?? line.next;
		return [map.at(x, k ? x : map.y0), map.at(x, y), map.at(y, y)];
	});
	pen.within(map, () => {
		pen.stroke([map.at(map.x0, map.x0), map.at(map.x1, map.x1)], colours.muted, 1, [3, 3]);
		drawJumping(pen, map, land, (x) => T([x, 0])[0], colours.ink);
		if (showsTwin(state)) pen.stroke(web(twin), colours.gd, 2, [6, 3]);
		pen.stroke(web(path), colours.sam, 2);
		for (const p of points) pen.mark(p.kind, map.at(p.x[0], p.x[0]));
	});
	pen.axes(map);
	const title = "T(x) and its cobweb; T(x) = x dashed";
	pen.text(title, map.left + 8, map.top + 12, colours.ink, "left", true);
}

// ---- Traces ----

function drawCurve(pen, panel, values, colour, dash) {
	const points = values.flatMap((v, k) => (Number.isFinite(v) ? [panel.at(k, v)] : []));
	pen.stroke(points, colour, 2, dash);
}

/** The axes of a trace, and the step that is shown. */
function frameTrace(pen, panel, state, title, ys, format) {
	const { colours } = pen;
	const xs = ticks(0, state.steps, panel.width < 200 ? 2 : 4).filter(Number.isInteger);
	const [x] = panel.at(stepShown(state), 0);
	pen.text(title, panel.left, panel.top - 10, colours.ink);
	pen.frame(panel, xs, ys, format);
	pen.stroke([[x, panel.top], [x, panel.bottom]], colours.ink, 1, [3, 3]);
	pen.text("step", panel.right, panel.bottom + 26, colours.muted, "right");
}

function drawRatio(pen, panel, state, { path }) {
	const { colours } = pen;
	panel.x1 = state.steps;
	pen.within(panel, () => {
		pen.stroke([panel.at(0, 0), panel.at(state.steps, 0)], colours.muted, 1, [2, 3]);
		const logs = path.gradRatio.map((v) => Math.log10(Math.max(v, 10 ** -8.4)));
		drawCurve(pen, panel, logs, colours.sam);
	});
	const format = (v) => (v ? `1e−${-v}` : "1");
	frameTrace(pen, panel, state, "GradRatio ‖∇f(x⁺)‖/‖∇f(x)‖", [-8, -4, 0], format);
}

function drawLoss(pen, panel, state, { path, twin }) {
	const { colours } = pen;
	const tame = (values) => values.filter((v) => Math.abs(v) < 1e9);
	const own = tame(path.loss);
	const all = showsTwin(state) ? [...own, ...tame(twin.loss)] : own;
	const [first] = path.loss;
	// a runaway must not flatten the rest
	const span = 3 * (Math.max(...own) - Math.min(...own) + Math.abs(first));
	const low = Math.max(Math.min(...all), first - span);
	const high = Math.min(Math.max(...all), first + span);
	const pad = 0.08 * (high - low || 1);
	Object.assign(panel, { x1: state.steps, y0: low - pad, y1: high + pad });
	pen.within(panel, () => {
		drawCurve(pen, panel, path.shiftedLoss, colours.plus, [1, 3]);
		if (showsTwin(state)) drawCurve(pen, panel, twin.loss, colours.gd, [6, 4]);
		drawCurve(pen, panel, path.loss, colours.sam);
	});
	const title = panel.width < 200 ? "f(x), f(x⁺) dotted" : "loss f(x); dotted: f(x⁺)";
	frameTrace(pen, panel, state, title, ticks(panel.y0, panel.y1, 3));
}
