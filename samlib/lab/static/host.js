/* Runs the lab without a kernel. Each <div class="samlab"> holds the state that Python left, and a
 * picture that stays for print and for readers without JavaScript. Labs are mounted when they come
 * near the screen, or when a link names them. */
(() => {
	/** What the lab uses of an anywidget model; with no kernel, saving does nothing. */
	function makeModel(state) {
		const listeners = {};
		return {
			get: (key) => state[key],
			set(key, value) {
				const patch = typeof key === "object" ? key : { [key]: value };
				const differs = (name) => JSON.stringify(state[name]) !== JSON.stringify(patch[name]);
				const changed = Object.keys(patch).filter(differs);
				Object.assign(state, patch);
				for (const name of changed) listeners[`change:${name}`]?.forEach((listener) => listener());
			},
			save_changes() {},
			on: (event, listener) => (listeners[event] ??= new Set()).add(listener),
			off: (event, listener) => listeners[event]?.delete(listener),
		};
	}

	async function mount(lab) {
		if (lab.dataset.lab) return;
		lab.dataset.lab = "loading";
		try {
			const model = makeModel(JSON.parse(lab.querySelector("script.samlab-state").textContent));
			await globalThis.samlab.render({ model, el: lab });
			lab.dataset.lab = "live"; // samlab.css now keeps the picture for print alone
		} catch (error) {
			lab.dataset.lab = "failed";
			console.error("The lab could not start:", error);
		}
	}

	const labs = [...document.querySelectorAll("div.samlab")];
	labs.forEach((lab, i) => (lab.id ||= `lab-${i + 1}`));
	const isNamed = (lab) => location.hash.startsWith(`#${lab.id}:`);
	const mountNamed = () => labs.filter(isNamed).forEach(mount);
	const near = new IntersectionObserver((entries) => {
		for (const { isIntersecting, target } of entries) if (isIntersecting) mount(target);
	}, { rootMargin: "400px" });
	labs.forEach((lab) => near.observe(lab));
	window.addEventListener("hashchange", mountNamed);
	mountNamed();
})();
