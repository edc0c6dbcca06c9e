// Opened from a folder, a page may not fetch another one, so search shows titles without excerpts there.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// A formula wider than its column scrolls sideways, so the keyboard must be able to reach it.
addEventListener("load", () => {
  const mark = () => {
    const formulas = 'mjx-container[display="true"], .bd-article span.math';
    for (const formula of document.querySelectorAll(formulas)) {
      if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0;
      else formula.removeAttribute("tabindex");
    }
  };
  const typeset = window.MathJax?.startup?.promise ?? Promise.resolve();
  typeset.then(mark);
  document.fonts?.addEventListener("loadingdone", mark); // the formulas' own font changes their width
  addEventListener("resize", mark);
});
