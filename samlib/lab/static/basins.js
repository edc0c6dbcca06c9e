/* Basins, computed beside the page.
 *
 * `mathematics` is math.js as a function, which samlib.lab.script makes when it joins these files.
 */

import * as math from "./math.js";

export const ENDS = {
	hallucinated: "at a hallucinated point",
	minimizer: "at a minimizer",
	saddle: "at a saddle",
	maximizer: "at a maximizer",
	surrogate: "at another zero of ∇f^SAM",
	gone: "gone to infinity",
	undecided: "not settled",
};

const workerSource = () => `
	const math = (${mathematics})();
	let land, name = "";
	onmessage = ({ data }) => {
		const key = JSON.stringify([data.source, data.rule]);
		if (key !== name) [land, name] = [math.compile(data.source), key];
		const { kinds, rows } = math.basins(land, data);
		const labels = new Uint8Array(rows.length * data.width);
		rows.forEach((row, i) => labels.set(row, i * data.width));
		postMessage({ kinds, labels }, [labels.buffer]);
	};`;

/** Computes basins in two workers, which share the rows; while they are busy only the newest
 *  request waits. `done` gets the request with kinds, labels and milliseconds, `failed` a
 *  reason. */
export class BasinComputer {
	pool = [];
	running = null;
	waiting = null;
	missing = 0; // workers that have not answered yet

	constructor(done, failed) {
		Object.assign(this, { done, failed });
	}
	open() {
		const url = URL.createObjectURL(new Blob([workerSource()], { type: "text/javascript" }));
		const count = Math.min(2, navigator.hardwareConcurrency || 1);
		this.pool = Array.from({ length: count }, () => new Worker(url));
		this.pool.forEach((worker, first) => {
			worker.onerror = (event) => this.failed(event.message || "the browser allows no worker here");
			worker.onmessage = ({ data }) => this.receive(data, first);
		});
		URL.revokeObjectURL(url);
	}
	ask(request) {
		if (this.running) {
			this.waiting = request;
			return;
		}
		try {
			if (!this.pool.length) this.open();
		} catch (error) {
			this.failed(error.message);
			return;
		}
		const { pool } = this;
		const labels = new Uint8Array(request.width * request.height);
		this.running = { ...request, labels, began: performance.now() };
		this.missing = pool.length;
		pool.forEach((worker, first) => worker.postMessage({ ...request, first, stride: pool.length }));
	}
	receive({ kinds, labels }, first) {
		const { running, waiting } = this;
		const { width, height, began } = running;
		for (let j = first, i = 0; j < height; j += this.pool.length, i += width) {
			running.labels.set(labels.subarray(i, i + width), j * width);
		}
		if (--this.missing) return;
		const milliseconds = performance.now() - began;
		this.running = this.waiting = null;
		if (waiting) this.ask(waiting);
		this.done({ ...running, kinds, milliseconds });
	}
	close() {
		this.pool.forEach((worker) => worker.terminate());
	}
}

/** The share of starts that end at each kind, largest first: [[kind, share], …]. */
export function basinShares({ labels, kinds }) {
	const count = {};
	for (const label of labels) {
		const kind = label === math.GONE ? "gone" : label ? kinds[label - 1] : "undecided";
		count[kind] = (count[kind] ?? 0) + 1 / labels.length;
	}
	return Object.entries(count).sort((a, b) => b[1] - a[1]);
}
