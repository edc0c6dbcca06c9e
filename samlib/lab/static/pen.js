/* Drawing on a canvas: colours, panels with axes, marks, and pictures of fields. */

import * as math from "./math.js";
import { say } from "./words.js";

const FONT = "12px system-ui, sans-serif";
const COLOURS = [
	...["paper", "ink", "muted", "low", "high", "contour", "sam", "gd", "plus"],
	...["attracting", "saddle", "repelling"],
];
const BASINS = ["hallucinated", "minimizer", "saddle", "maximizer", "surrogate", "gone"];

/** The colours, from samlab.css, so that they follow the theme. */
export function readColours(element) {
	const style = getComputedStyle(element);
	const names = [...COLOURS, ...BASINS.map((kind) => `basin-${kind}`)];
	const read = (name) => [name, style.getPropertyValue(`--samlab-${name}`).trim()];
	return Object.fromEntries(names.map(read));
}

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const mix = (a, b, t) => a.map((v, i) => v + (b[i] - v) * t);
export const clamp = (v, low, high) => Math.max(low, Math.min(high, v));

// ---- Pictures ----

function toCanvas(image) {
	const canvas = document.createElement("canvas");
	Object.assign(canvas, { width: image.width, height: image.height });
	canvas.getContext("2d").putImageData(image, 0, 0);
	return canvas;
}

/** Contour levels by number: even on a logarithmic scale above the lowest value, so that valleys
 *  show. */
function levelsOf(field, count) {
	const sample = field.filter((v, i) => i % 53 === 0 && Number.isFinite(v)).sort();
	const quantile = (q) => sample[Math.floor(q * sample.length)];
	const [least, quarter, most, high] = [0, 0.25, 0.75, 0.97].map(quantile);
	const low = Math.max(least, 4 * quarter - 3 * most); // f may fall without bound
	const unit = (quarter - low) / 4 || 1;
	const factor = count / Math.log1p((high - low) / unit || 1);
	return Float32Array.from(field, (v) => factor * Math.log1p(Math.max(0, v - low) / unit));
}

/** Pictures of the shaded bands and of the lines between them, for a field on nx × ny pixels. */
export function contours(field, nx, ny, colours) {
	const count = 15;
	const level = levelsOf(field, count);
	const bands = new ImageData(nx, ny);
	const lines = new ImageData(nx, ny);
	const ink = rgb(colours.contour);
	const [low, high] = [rgb(colours.low), rgb(colours.high)];
	const shades = Array.from({ length: count + 1 }, (_, i) => mix(low, high, i / count));
	for (let j = 0, i = 0; j < ny; j++) {
		for (let k = 0; k < nx; k++, i++) {
			const v = level[i];
			if (!(v >= 0)) continue; // not a number
			bands.data.set(shades[Math.min(count, v) | 0], 4 * i);
			bands.data[4 * i + 3] = 255;
			// the distance to the nearest level in pixels, from the slope, smooths the line's edges
			const right = level[k + 1 < nx ? i + 1 : i - 1];
			const below = level[j + 1 < ny ? i + nx : i - nx];
			const slope = Math.hypot(right - v, below - v) + 1e-6;
			const away = Math.abs(v - Math.round(v)) / slope;
			if (away < 1 && v >= 0.5 && slope < 0.7) {
				lines.data.set(ink, 4 * i);
				lines.data[4 * i + 3] = 200 * (1 - away);
			}
		}
	}
	return [bands, lines].map(toCanvas);
}

/** A picture of basin labels: a hue for each kind, a shade for each limit of that kind. */
export function basinPicture({ labels, kinds, width, height }, colours) {
	const image = new ImageData(width, height);
	const [black, white] = [[0, 0, 0], [255, 255, 255]];
	const shades = [[black, 0], [white, 0.3], [black, 0.16], [white, 0.15], [black, 0.32]];
	const seen = {};
	const shade = (label) => {
		const kind = kinds[label - 1];
		seen[kind] = (seen[kind] ?? -1) + 1;
		return mix(rgb(colours[`basin-${kind}`]), ...shades[seen[kind] % 5]);
	};
	const palette = [rgb(colours.low)];
	palette[math.GONE] = rgb(colours["basin-gone"]);
	labels.forEach((label, i) => {
		image.data.set((palette[label] ??= shade(label)), 4 * i);
		image.data[4 * i + 3] = 255;
	});
	return toCanvas(image);
}

// ---- Panels and marks ----

/** A rectangle of the canvas with a window of the plane. */
export class Panel {
	constructor(left, top, width, height, [x0, x1, y0, y1]) {
		Object.assign(this, { left, top, width, height, x0, x1, y0, y1 });
	}
	get right() {
		return this.left + this.width;
	}
	get bottom() {
		return this.top + this.height;
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

/** Round numbers between low and high, about `count` of them. */
export function ticks(low, high, count) {
	const raw = (high - low) / count;
	const power = 10 ** Math.floor(Math.log10(raw));
	const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
	const list = [];
	for (let v = Math.ceil(low / step); v * step <= high + 1e-9 * step; v++) {
		list.push(Number((v * step).toPrecision(6)));
	}
	return list;
}

/** The corners of marks of size 1. Shapes tell as much as colours: discs and diamonds are
 *  hallucinated, triangles critical. */
const SHAPES = {
	minimizer: [[-1, -0.8], [1, -0.8], [0, 1]],
	maximizer: [[-1, 0.8], [1, 0.8], [0, -1]],
	pass: [[-1, -1], [1, -1], [-1, 1], [1, 1]], // a saddle of f
	saddle: [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]],
};

/** Draws on a 2-D context with the colours of the theme. */
export class Pen {
	constructor(context, colours) {
		Object.assign(this, { c: context, colours });
		Object.assign(context, { font: FONT, lineJoin: "round" });
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
	disc([x, y], radius, colour, rim = "transparent") {
		const { c } = this;
		c.beginPath();
		c.arc(x, y, radius, 0, 2 * Math.PI);
		Object.assign(c, { fillStyle: colour, strokeStyle: rim, lineWidth: 2 });
		c.stroke();
		c.fill();
	}
	circle([x, y], radius, colour, dash) {
		const { c } = this;
		c.setLineDash(dash);
		this.disc([x, y], radius, "transparent", colour);
		c.setLineDash([]);
	}
	/** Text; on a halo of paper, so that it can be read over a picture, if `halo`. */
	text(string, x, y, colour, align = "left", halo = false) {
		const { c } = this;
		Object.assign(c, { textAlign: align, textBaseline: "middle", fillStyle: colour });
		Object.assign(c, { lineWidth: 3, strokeStyle: this.colours.paper });
		if (halo) c.strokeText(string, x, y);
		c.fillText(string, x, y);
	}
	arrow(from, to, colour, width, dash) {
		const length = math.distance(from, to);
		if (!(length > 0.5)) return;
		const angle = Math.atan2(to[1] - from[1], to[0] - from[0]);
		const head = Math.min(10, length);
		const wing = (turn) => [
			to[0] + head * Math.cos(angle + turn),
			to[1] + head * Math.sin(angle + turn),
		];
		this.stroke([from, to], this.colours.paper, width + 2.5);
		this.stroke([from, to], colour, width, dash);
		this.fill([to, wing(2.7), wing(-2.7)], colour);
	}
	mark(kind, [x, y], size = 5.5) {
		const { colours } = this;
		const colour = colours[kind === "neutral" ? "attracting" : kind] ?? colours.ink;
		const rim = colour === colours.ink ? colours.paper : colours.ink;
		if (!SHAPES[kind]) return this.disc([x, y], size, colour, rim);
		const corners = SHAPES[kind].map(([u, v]) => [x + u * size, y + v * size]);
		this.stroke([...corners, corners[0]], rim, 2.5);
		this.fill(corners, colour);
	}
	frame(panel, xs, ys, format = say) {
		const { c, colours } = this;
		const { left, top, width, height, right, bottom } = panel;
		Object.assign(c, { strokeStyle: colours.muted, lineWidth: 1 });
		c.strokeRect(left + 0.5, top + 0.5, width - 1, height - 1);
		for (const v of xs) {
			const x = panel.at(v, 0)[0];
			const align = x > right - 12 ? "right" : "center";
			this.text(say(v), Math.min(x, right + 8), bottom + 11, colours.muted, align);
		}
		for (const v of ys) this.text(format(v), left - 5, panel.at(0, v)[1], colours.muted, "right");
	}
	axes(panel) {
		const xs = ticks(panel.x0, panel.x1, panel.width / 70);
		this.frame(panel, xs, ticks(panel.y0, panel.y1, panel.height / 55));
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
