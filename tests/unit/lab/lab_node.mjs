// Runs the lab's module for tests/unit/lab/test_lab_js.py:
// node lab_node.mjs < {module, task, known, cases} > results
import { readFileSync } from "node:fs";

const { module, task, known, cases } = JSON.parse(readFileSync(0, "utf8"));
const text = Buffer.from(module).toString("base64");
const { default: lab } = await import(`data:text/javascript;base64,${text}`);
const { math } = lab;
const { sources } = known;
const lands = Object.fromEntries(Object.entries(sources).map(([name, source]) => [name, math.compile(source)]));
const pad = (x) => (x.length === 1 ? [x[0], 0] : x);

const tasks = {
  /** f, ∇f and ∇²f as the lab uses them. */
  values: ({ landscape, x }) => {
    const land = lands[landscape];
    return { f: land.f(pad(x)), grad: land.grad(pad(x)), hess: land.hess(pad(x)) };
  },
  step: ({ landscape, x, rho, eta, rule }) => {
    const d = lands[landscape].rules[rule](pad(x), rho);
    return { direction: d.slice(0, 2), plus: d.slice(2), next: math.stepper(lands[landscape], rho, eta, rule)(pad(x)) };
  },
  verdict: ({ landscape, x, rho, eta, rule, steps }) =>
    math.verdict(math.trajectory(lands[landscape], x, rho, eta, steps, rule)),
  points: ({ landscape, rho }) => {
    const critical = math.criticalPoints(lands[landscape]);
    const found = math.hallucinated(lands[landscape], critical, rho);
    return { critical, found: found.map(({ x, kind, etaMax, image }) => ({ x, kind, etaMax, image: image.x })) };
  },
  basins: ({ landscape, ...request }) => {
    const [early, full] = [true, false].map((early) => math.basins(lands[landscape], { ...request, early }));
    const flat = ({ rows }) => rows.flatMap((row) => [...row]);
    return { kinds: early.kinds, early: flat(early), full: flat(full) };
  },
  link: ({ hash, id, now }) => lab.readLink(hash, id, known, now),
  write: ({ id, state }) => lab.writeLink(id, state),
};
process.stdout.write(JSON.stringify(cases.map(tasks[task])));
