// Reads a JSON list of [TeX, whether it is displayed] and writes, for each, the error or "".
// Undefined commands are errors, which MathJax in a page would only colour red.
const [mathjax] = process.argv.slice(2);
const fs = require("fs");

require(mathjax).init({
  loader: { load: ["input/tex", "[tex]/ams"] },
  tex: { packages: { "[-]": ["noundefined", "noerrors"] } },
}).then((MathJax) => {
  const errors = JSON.parse(fs.readFileSync(0, "utf8")).map(([tex, display]) => {
    try {
      const mml = MathJax.tex2mml(tex, { display });
      const found = /<merror data-mjx-error="([^"]*)"/.exec(mml);
      return found ? found[1] : mml.includes("<merror") ? "unknown error" : "";
    } catch (error) {
      return String(error.message ?? error);
    }
  });
  process.stdout.write(JSON.stringify(errors));
}).catch((error) => { console.error(error); process.exit(1); });
