/* The live laboratory of samlib: an anywidget; without a kernel host.js runs it.
 *
 * samlib.lab.script joins the files of this folder. Each uses those before it: math, state (with
 * links), words, basins (workers), scene (what follows from the state), pen and draw (the canvas),
 * controls, and this one, which holds the model.
 */

import { basinShares, ENDS } from "./basins.js";
import { Controls, Playback, Start, TEMPLATE } from "./controls.js";
import { Figure } from "./draw.js";
import * as math from "./math.js";
import { Scene } from "./scene.js";
import { KEYS, readLink, RULES, writeLink } from "./state.js";

const THEMES = { attributeFilter: ["data-theme", "data-jp-theme-light"] };

/** A lab in the element `el` that shows and changes `model`. */
class Lab {
	notice = ""; // what the reader is told until the next change
	frame = 0;
	timers = {};
	stop = new AbortController();

	constructor(model, el) {
		this.model = model;
		this.sources = model.get("sources");
		this.limits = model.get("limits");
		this.id = el.closest(".samlab")?.id ?? "";
		this.state = { at: null }; // a copy of the traits, and the step shown
		this.readTraits();
		this.initial = { ...this.state };
		this.root = document.createElement("div");
		this.root.className = "samlab-live";
		this.root.setAttribute("role", "group");
		this.root.setAttribute("aria-label", "Lab: SAM on a landscape");
		this.root.innerHTML = TEMPLATE;
		el.append(this.root);
		this.figure = new Figure(this.find("canvas"));
		this.scene = new Scene(
			({ milliseconds }) => {
				this.figure.canvas.dataset.basinsMs = milliseconds.toFixed(1);
				this.refresh();
			},
			(reason) => this.note(`Basins cannot be computed: ${reason}.`),
		);
		this.controls = new Controls(this);
		this.start = new Start(this);
		this.playback = new Playback(this);
		this.watch();
		this.followLink();
		this.refresh();
	}

	/** Listen to everything else that changes the lab. */
	watch() {
		const copy = this.find("[name^=Copy]");
		copy.hidden = !this.id; // in JupyterLab Python holds the state
		this.listen(copy, "click", () => this.copyLink());
		this.listen(this.find("[name=Reset]"), "click", () => {
			this.playback.pause();
			this.change(this.initial);
		});
		this.listen(window, "hashchange", (event) => this.followLink(event));
		for (const key of KEYS) this.model.on(`change:${key}`, this.refresh);
		this.resized = new ResizeObserver(this.refresh);
		this.resized.observe(this.figure.canvas.parentNode);
		this.themed = new MutationObserver(this.refresh);
		for (const element of [document.documentElement, document.body]) {
			this.themed.observe(element, THEMES);
		}
	}
	find(selector) {
		return this.root.querySelector(selector);
	}
	listen(target, type, action) {
		target.addEventListener(type, action, { signal: this.stop.signal });
	}

	// ---- changes ----

	/** Every change passes through the model; Python hears of it at most ten times a second. */
	change({ at = this.state.at, ...traits }) {
		this.state.at = at;
		this.notice = "";
		this.model.set(traits);
		this.timers.save ??= setTimeout(() => {
			this.timers.save = undefined;
			this.model.save_changes();
		}, 100);
		this.refresh();
	}
	note(text) {
		this.notice = text;
		this.refresh();
	}
	refresh = () => {
		this.frame ||= requestAnimationFrame(() => {
			this.frame = 0;
			this.redraw();
		});
	};
	readTraits() {
		for (const key of KEYS) this.state[key] = this.model.get(key);
	}
	redraw() {
		const began = performance.now();
		this.readTraits();
		const { state, scene, figure } = this;
		const source = this.sources[state.landscape];
		if (state.start.length !== source?.dim) return; // Python is between two changes
		figure.fit(source);
		scene.update(state, source, figure.panels.plane);
		figure.draw(state, scene);
		this.controls.sync(state);
		this.controls.syncLegend(scene.basins);
		this.start.sync(state);
		this.playback.sync();
		this.speak();
		figure.canvas.dataset.redrawMs = (performance.now() - began).toFixed(2);
	}

	/** Say what happened; a screen reader hears it once the reader's hand rests. */
	speak() {
		const { basins, words } = this.scene;
		const shares = basins ? basinShares(basins).filter(([, share]) => share >= 0.005) : [];
		const tally = shares.map(([kind, share]) => `${Math.round(100 * share)} % ${ENDS[kind]}`);
		const ends = tally.length ? `The starts shown end: ${tally.join(", ")}.` : "";
		const text = [this.notice, words, ends].filter(Boolean).join(" ");
		const says = this.find(".samlab-says");
		if (says.textContent === text) return;
		says.textContent = text;
		clearTimeout(this.timers.speak);
		this.timers.speak = setTimeout(() => {
			const { landscape, rule } = this.state;
			const label = `${landscape} with the path of ${RULES[rule]}. ${this.scene.words}`;
			this.find("[role=status]").textContent = text;
			this.figure.canvas.setAttribute("aria-label", label);
		}, 600);
	}

	// ---- links ----

	followLink(event) {
		const asked = readLink(location.hash, this.id, this, this.state);
		if (!asked) return;
		this.playback.pause();
		if (asked.wrong.length) {
			const wrong = asked.wrong.join(", ");
			this.note(`The link could not be read (${wrong}); the lab keeps its own state.`);
		} else this.change(asked.state);
		if (event) history.replaceState(null, "", `#${this.id}`); // the same link must work again
		this.root.scrollIntoView({ block: "nearest" });
	}
	async copyLink() {
		history.replaceState(null, "", writeLink(this.id, this.state));
		const written = navigator.clipboard?.writeText(location.href);
		const copied = await written?.then(() => true, () => false);
		const also = copied ? " and on the clipboard" : "";
		this.note(`The link to this state is in the address bar${also}.`);
	}

	close() {
		this.playback.pause();
		cancelAnimationFrame(this.frame);
		this.stop.abort();
		this.scene.close();
		this.resized.disconnect();
		this.themed.disconnect();
		for (const key of KEYS) this.model.off(`change:${key}`, this.refresh);
		Object.values(this.timers).forEach(clearTimeout);
		this.root.remove();
	}
}

/** Mount a lab; returns what takes it down. */
function render({ model, el }) {
	const lab = new Lab(model, el);
	return () => lab.close();
}

export default { render, math, readLink, writeLink };
