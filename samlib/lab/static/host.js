/* Runs the lab on a page without a kernel. For each <div class="samlab"> it makes the small part of an anywidget model
 * that samlab.js uses, out of the state that Python left in the page, and mounts the lab when it comes near the screen.
 * The picture in the div stays for readers without JavaScript, while loading and in print. */
(() => {
  const labs = [...document.querySelectorAll("div.samlab")];

  /** get, set, on, off and save_changes as anywidget has them; with no kernel, saving does nothing. */
  function makeModel(state) {
    const listeners = {};
    const emit = (event) => [...(listeners[event] ?? [])].forEach((listener) => listener());
    return {
      get: (key) => state[key],
      set(key, value) {
        const patch = typeof key === "object" ? key : { [key]: value };
        const changed = Object.keys(patch).filter((name) => JSON.stringify(state[name]) !== JSON.stringify(patch[name]));
        Object.assign(state, patch);
        changed.forEach((name) => emit(`change:${name}`));
        if (changed.length) emit("change");
      },
      save_changes() {},
      send() {},
      on: (event, listener) => (listeners[event] ??= new Set()).add(listener),
      off: (event, listener) => listeners[event]?.delete(listener),
    };
  }

  async function mount(lab) {
    if (lab.dataset.lab) return;
    lab.dataset.lab = "loading";
    const model = makeModel(JSON.parse(lab.querySelector("script.samlab-state").textContent));
    try {
      await globalThis.samlab.initialize?.({ model });
      await globalThis.samlab.render({ model, el: lab });
      lab.dataset.lab = "live"; // samlab.css now keeps the picture for print alone
    } catch (error) {
      lab.dataset.lab = "failed";
      console.error("The lab could not start:", error);
    }
  }

  labs.forEach((lab, i) => (lab.id ||= `lab-${i + 1}`));
  const addressed = () => labs.filter((lab) => location.hash.startsWith(`#${lab.id}:`)).forEach(mount);
  addressed();
  window.addEventListener("hashchange", addressed);
  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => (near.unobserve(target), mount(target))),
    { rootMargin: "400px" },
  );
  labs.forEach((lab) => near.observe(lab));
})();
