/* The state of a lab, and the link that restores it.
 *
 * A state is the traits KEYS and `at`, the step at which playback stands (null: the last one).
 */

export const KEYS = ["landscape", "rho", "eta", "start", "rule", "steps", "show"];
export const RULES = { sam: "SAM", exact: "exact gradient of f^SAM", gd: "gradient descent" };
export const LAYERS = { gd: "gradient descent", basins: "basins", fsam: "contours of f^SAM" };

/** The step that is shown. */
export const stepShown = ({ at, steps }) => Math.min(at ?? steps, steps);
export const showsTwin = ({ show, rule }) => show.includes("gd") && rule !== "gd";

/** Functions that read one value of a link each; what they cannot use they read as undefined. */
function linkReaders({ sources, limits }) {
	const number = ([low, high]) => (text) => {
		const value = /^[-+]?[\d.]+(e[-+]?\d+)?$/i.test(text) ? Number(text) : NaN;
		return value >= low && value <= high ? value : undefined;
	};
	const whole = (range) => (text) => (/^\d+$/.test(text) ? number(range)(text) : undefined);
	const word = (known) => (text) => (Object.hasOwn(known, text) ? text : undefined);
	const list = (read) => (text) => {
		const values = text.split(",").filter(Boolean).map(read);
		return values.includes(undefined) ? undefined : values;
	};
	return {
		landscape: word(sources),
		rho: number(limits.rho),
		eta: number(limits.eta),
		start: list(number([-1e300, 1e300])),
		rule: word(RULES),
		steps: whole(limits.steps),
		show: list(word(LAYERS)),
		at: whole([0, limits.steps[1]]),
	};
}

/** Read a hash such as #lab-1:landscape=ring&rho=1.2. Null if it is for somebody else; else the
 *  state it asks for (what it leaves out comes from `now`) and a list of what is wrong with it.
 *  `known` is {sources, limits}. */
export function readLink(hash, id, known, now) {
	if (!id || !hash.startsWith(`#${id}:`)) return null;
	try {
		hash = decodeURIComponent(hash);
	} catch {} // a stray % is one more thing that is wrong
	const readers = linkReaders(known);
	const { sources } = known;
	const asked = {};
	const wrong = [];
	for (const part of hash.slice(id.length + 2).split("&")) {
		const [key, text = ""] = part.split("=");
		const value = Object.hasOwn(readers, key) ? readers[key](text) : undefined;
		if (value === undefined) wrong.push(part.slice(0, 30));
		else asked[key] = value;
	}
	const other = asked.landscape !== undefined && asked.landscape !== now.landscape;
	const preset = other ? sources[asked.landscape].preset : {};
	const state = { ...now, ...preset, at: null, ...asked };
	if (!wrong.length && state.start.length !== sources[state.landscape].dim) {
		wrong.push(`start=${state.start}`);
	}
	return { state, wrong };
}

/** The hash that restores this state: JavaScript prints numbers so that they read back
 *  unchanged. */
export function writeLink(id, state) {
	const keys = state.at === null ? KEYS : [...KEYS, "at"];
	return `#${id}:${keys.map((key) => `${key}=${state[key]}`).join("&")}`;
}
