/* What a reader moves: the controls, the start, playback. */

import { basinShares, ENDS } from "./basins.js";
import { clamp } from "./pen.js";
import { LAYERS, RULES, stepShown } from "./state.js";
import { say, sayPoint } from "./words.js";

const button = (text) => `<button type="button" name="${text}">${text}</button>`;
const slider = (name, label) =>
	`<label><span>${label[0]}</span>
	<input type="range" name="${name}" aria-label="${label}" min="0" max="400">
	<input type="number" name="${name}" aria-label="${label}, exact" step="any"></label>`;
export const TEMPLATE = `
<div class="samlab-row">
	<label>Landscape <select name="landscape"></select></label>
	<label>Rule <select name="rule"></select></label>
</div>
<div class="samlab-stage">
	<canvas role="img" aria-label="Landscape"></canvas>
	<button type="button" class="samlab-handle"></button>
</div>
<div class="samlab-row">
	<span>${["Play", "Step", "Reset", "Copy link"].map(button).join(" ")}</span>
	<label class="samlab-grow"><span>step <output></output> of</span>
		<input type="number" name="steps" aria-label="number of steps">
		<input type="range" name="at" aria-label="step shown" min="0"></label>
</div>
<p class="samlab-says" aria-hidden="true"></p>
<p class="samlab-heard" role="status"></p>
<div class="samlab-sliders">
	${slider("rho", "ρ, the radius")}
	${slider("eta", "η, the step size, logarithmic")}
</div>
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

/** The fields, sliders, buttons and boxes around the figure. */
export class Controls {
	constructor(lab) {
		this.lab = lab;
		const { root, sources, limits } = lab;
		for (const name of Object.keys(sources)) this.select("landscape").add(new Option(name));
		for (const [name, text] of Object.entries(RULES)) {
			this.select("rule").add(new Option(text, name));
		}
		for (const [name, text] of Object.entries(LAYERS)) this.addLayer(name, text);
		for (const name of Object.keys(limits)) this.prepareNumber(name);
		for (const name of ["rho", "eta"]) {
			lab.listen(this.range(name), "input", ({ target }) => {
				lab.change({ [name]: SLIDERS[name].value(Number(target.value), this.mostRho()) });
			});
		}
		lab.listen(this.select("landscape"), "change", ({ target: { value } }) => {
			lab.change({ landscape: value, ...sources[value].preset, at: null });
		});
		lab.listen(this.select("rule"), "change", ({ target }) => lab.change({ rule: target.value }));
		// JupyterLab would take arrow keys and letters for itself
		for (const control of root.querySelectorAll("button, input, select")) {
			control.dataset.lmSuppressShortcuts = "true";
		}
	}

	select(name) {
		return this.lab.find(`select[name=${name}]`);
	}
	range(name) {
		return this.lab.find(`[type=range][name=${name}]`);
	}
	number(name) {
		return this.lab.find(`[type=number][name=${name}]`);
	}
	/** The ρ at the end of its slider. */
	mostRho() {
		const { rho, landscape } = this.lab.state;
		return Math.max(rho, ...this.lab.sources[landscape].box.map(([low, high]) => (high - low) / 2));
	}

	addLayer(name, text) {
		const { lab } = this;
		const label = document.createElement("label");
		const box = Object.assign(document.createElement("input"), { type: "checkbox", name });
		label.append(box, text);
		lab.find("fieldset").append(label);
		lab.listen(box, "change", () => {
			const shown = (layer) => (layer === name ? box.checked : lab.state.show.includes(layer));
			lab.change({ show: Object.keys(LAYERS).filter(shown) });
		});
	}

	prepareNumber(name) {
		const { lab } = this;
		const [low, high] = lab.limits[name];
		const field = Object.assign(this.number(name), { min: low, max: high });
		lab.listen(field, "change", () => {
			const value = Number(field.value);
			if (field.value !== "" && value >= low && value <= high) {
				lab.change({ [name]: name === "steps" ? Math.round(value) : value });
				return;
			}
			const given = field.value || "nothing";
			const range = `from ${low} to ${say(high)}`;
			lab.note(`${name} = ${given} cannot be used: it must be a number ${range}.`);
			field.value = lab.state[name];
		});
	}

	/** Show the state; a field that is being edited stays as it is. */
	sync(state) {
		const put = (name) => {
			const field = this.number(name);
			if (field !== document.activeElement) field.value = state[name];
		};
		for (const name of ["landscape", "rule"]) this.select(name).value = state[name];
		for (const name of ["rho", "eta"]) {
			const range = this.range(name);
			const most = this.mostRho();
			put(name);
			if (SLIDERS[name].value(Number(range.value), most) !== state[name]) {
				range.value = SLIDERS[name].position(state[name], most);
			}
			range.setAttribute("aria-valuetext", say(state[name]));
		}
		put("steps");
		this.range("at").max = state.steps;
		this.range("at").value = stepShown(state);
		this.lab.find("output").textContent = stepShown(state);
		for (const box of this.lab.root.querySelectorAll("[type=checkbox]")) {
			box.checked = state.show.includes(box.name);
		}
	}

	syncLegend(basins) {
		const html = legend(basins);
		if (this.legend !== html) this.lab.find(".samlab-legend").innerHTML = this.legend = html;
	}
}

/** The legend's rows, those of basins with the ends that occur. */
function legend(basins) {
	const shade = (name) => `"var(--samlab-${name})"`;
	const stroke = (name, dash) =>
		`<path d="M1 8h24" stroke=${shade(name)} stroke-width="3" stroke-dasharray="${dash}"/>`;
	const mark = (name, path) =>
		`<path d="${path}" fill=${shade(name)} stroke=${shade("ink")} stroke-width="1.5"/>`;
	const patch = (name) => `<path d="M5 2h16v12H5z" fill=${shade(name)}/>`;
	const disc = "M8 8a5 5 0 1 0 10 0a5 5 0 1 0-10 0";
	const rows = [
		["path of the rule", stroke("sam", "")],
		["of gradient descent", stroke("gd", "6 4")],
		["from x to x⁺; sphere of radius ρ", stroke("plus", "5 3")],
		["hallucinated: attracts", mark("attracting", disc)],
		["in part", mark("saddle", "M13 1l7 7-7 7-7-7z")],
		["repels", mark("repelling", disc)],
		["minimizer", mark("ink", "M8 4h10l-5 8z")],
		["saddle", mark("ink", "M8 3h10L8 13h10z")],
		["maximizer", mark("ink", "M8 12h10l-5-8z")],
	];
	for (const [kind] of basins ? basinShares(basins) : []) {
		rows.push([`ends ${ENDS[kind]}`, patch(kind === "undecided" ? "low" : `basin-${kind}`)]);
	}
	const row = ([text, svg]) =>
		`<li><svg width="26" height="16" aria-hidden="true">${svg}</svg> ${text}</li>`;
	return rows.map(row).join("");
}

/** The start: a handle over the figure, moved by mouse, finger or arrow keys. */
export class Start {
	constructor(lab) {
		this.lab = lab;
		this.handle = lab.find(".samlab-handle");
		const { handle } = this;
		const { canvas } = lab.figure;
		lab.listen(handle, "pointerdown", (event) => {
			const { left, top, width, height } = handle.getBoundingClientRect();
			const centre = [left + width / 2, top + height / 2];
			this.drag(handle, event, [event.clientX - centre[0], event.clientY - centre[1]]);
		});
		lab.listen(canvas, "pointerdown", (event) => {
			const { pointerType, button } = event; // a finger may want to scroll
			if (pointerType !== "mouse" || button !== 0 || !this.isInPlane(event)) return;
			event.preventDefault();
			this.moveTo(event);
			this.drag(canvas, event);
			handle.focus({ preventScroll: true });
		});
		lab.listen(canvas, "click", (event) => {
			if (event.pointerType !== "mouse" && this.isInPlane(event)) this.moveTo(event); // a tap
		});
		lab.listen(handle, "keydown", (event) => this.moveBy(event));
	}

	isInPlane({ offsetX: x, offsetY: y }) {
		const { left, top, right, bottom } = this.lab.figure.panels.plane;
		return x >= left && x <= right && y >= top && y <= bottom;
	}
	moveTo({ clientX, clientY }, [dx, dy] = [0, 0]) {
		const { figure, scene } = this.lab;
		const { plane } = figure.panels;
		const bounds = figure.canvas.getBoundingClientRect();
		const [x, y] = plane.from(clientX - bounds.left - dx, clientY - bounds.top - dy);
		const held = [clamp(x, plane.x0, plane.x1), clamp(y, plane.y0, plane.y1)];
		const tidy = held.map((v) => Number(v.toPrecision(6)));
		this.lab.change({ start: tidy.slice(0, scene.land.dim) });
	}
	drag(element, event, offset) {
		const end = new AbortController();
		const { signal } = end;
		element.setPointerCapture(event.pointerId);
		element.addEventListener("pointermove", (e) => this.moveTo(e, offset), { signal });
		for (const type of ["pointerup", "pointercancel"]) {
			element.addEventListener(type, () => end.abort(), { signal });
		}
	}
	moveBy(event) {
		const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
		const way = ways[event.key];
		if (!way) return;
		event.preventDefault();
		event.stopPropagation();
		const { state, figure } = this.lab;
		const { x0, x1 } = figure.panels.plane;
		const by = ((x1 - x0) / 100) * (event.shiftKey ? 10 : 1);
		this.lab.change({ start: state.start.map((v, i) => Number((v + by * way[i]).toPrecision(6))) });
	}

	sync(state) {
		const { handle } = this;
		const { figure, scene } = this.lab;
		const { left, top, right, bottom } = figure.panels.plane;
		const [x, y] = figure.startAt(state, scene);
		handle.style.left = `${clamp(x, left, right)}px`;
		handle.style.top = `${clamp(y, top, bottom)}px`;
		const keys = "the arrow keys (with Shift ten times as far)";
		handle.title = `Start ${sayPoint(state.start)}: drag it, or move it with ${keys}`;
		handle.setAttribute("aria-label", handle.title);
	}
}

/** Play, Step and the slider of steps. */
export class Playback {
	frame = 0;

	constructor(lab) {
		this.lab = lab;
		lab.listen(lab.find("[name=Play]"), "click", () => this.play());
		lab.listen(lab.find("[name=Step]"), "click", () => {
			const at = stepShown(lab.state);
			this.show(at < lab.state.steps ? at + 1 : 0);
		});
		lab.listen(lab.find("[type=range][name=at]"), "input", ({ target }) => {
			this.show(Number(target.value));
		});
	}

	show(at) {
		this.pause();
		this.lab.change({ at });
	}
	pause() {
		cancelAnimationFrame(this.frame);
		this.frame = 0;
	}
	play() {
		const { lab } = this;
		if (this.frame) {
			this.pause();
			lab.refresh();
			return;
		}
		if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
			lab.change({ at: null });
			const why = "since your system asks for less motion";
			lab.note(`All steps are shown at once, ${why}; Step shows them one by one.`);
			return;
		}
		const shown = stepShown(lab.state);
		const from = shown < lab.state.steps ? shown : 0;
		const began = performance.now();
		const rate = Math.max(12, lab.state.steps / 8) / 1000; // steps a millisecond
		const tick = () => {
			const { steps } = lab.state;
			const at = Math.min(steps, Math.floor(from + (performance.now() - began) * rate));
			this.frame = at < steps ? requestAnimationFrame(tick) : 0;
			lab.change({ at });
		};
		tick();
	}
	sync() {
		this.lab.find("[name=Play]").textContent = this.frame ? "Pause" : "Play";
	}
}
