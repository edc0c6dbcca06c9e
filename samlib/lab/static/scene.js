/* What is shown: everything that follows from the state. */

import { BasinComputer } from "./basins.js";
import * as math from "./math.js";
import { describe } from "./words.js";

/** land, critical and hallucinated points (`critical`, `points`), `path`, gradient descent's
 *  `twin`, `words`, and `basins` if they are asked for. `changed` is called when basins arrive,
 *  `failed` with a reason if none can. */
export class Scene {
	basins = null;
	keys = {}; // what each part was made from

	constructor(changed, failed) {
		this.computer = new BasinComputer((result) => {
			if (!this.keys.basins || result.source !== this.source) return;
			this.basins = result;
			changed(result);
		}, failed);
	}

	/** Follow the state; `plane` is the window of the plane that is shown. */
	update(state, source, plane) {
		const { landscape, rho, eta, start, rule, steps } = state;
		this.source = source;
		this.renew("land", landscape, () => {
			this.land = math.compile(source);
			this.critical = math.criticalPoints(this.land);
			this.basins = null;
		});
		this.renew("points", [landscape, rho, rule], () => {
			this.points = rule === "gd" ? [] : math.hallucinated(this.land, this.critical, rho);
		});
		this.renew("path", [landscape, rho, eta, start, rule, steps], () => {
			this.path = math.trajectory(this.land, start, rho, eta, steps, rule);
			this.twin = math.trajectory(this.land, start, rho, eta, steps, "gd");
			this.words = describe(state, this);
		});
		if (!state.show.includes("basins")) {
			this.basins = null;
			this.keys.basins = "";
			return;
		}
		const request = { source, rho, eta, rule, steps, ...raster(source, plane) };
		this.renew("basins", request, () => this.computer.ask(request));
	}

	/** Make a part anew if what it depends on has changed. */
	renew(part, inputs, make) {
		const key = JSON.stringify(inputs);
		if (this.keys[part] === key) return;
		this.keys[part] = key;
		make();
	}

	close() {
		this.computer.close();
	}
}

/** The starts whose ends are computed: 256 × 256 in the plane, 1024 on the line. */
function raster({ dim }, { x0, x1, y0, y1 }) {
	if (dim === 1) return { window: [x0, x1, 0, 0], width: 1024, height: 1 };
	return { window: [x0, x1, y0, y1], width: 256, height: 256 };
}
